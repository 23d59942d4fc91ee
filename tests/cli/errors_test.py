"""What a user can get wrong ends in words that help, and leaves nothing half-done.

Every test gives the settings of a gin file as a user would. The base and its experts
are fresh parameters: nothing here trains.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest

from elm_jax.checkpoints import manifest
from elm_jax.cli import gin_flags, selectors
from elm_jax.disk import files
from elm_jax.library import catalogue
from elm_jax.runs import evaluate, merge, merge_stages
from tests.checkpoints import sample
from tests.cli import failing
from tests.cli.failing import fail

LITTLE = ("TRAIN_STEPS = 2", "BATCH_SIZE = 8")
MERGE = ("task_arithmetic.TaskArithmetic.scale = 1.0",)


@pytest.mark.slow
def test_a_binary_ends_with_status_1_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "elm_jax.cli.elm_train"]
    command += ["--gin_file=gin/pocket/prompt_experts.gin"]
    command += [f"--gin.MODEL_DIR={tmp_path}", "--gin.MIXTURE_OR_TASK_NAME=pocket_kind"]
    root = str(selectors.files_root())
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "'pocket_kind'" in done.stderr
    assert "Did you mean: pocket_kinds" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pocket_kindz", "pocket_kinds_which_iss"])
def test_an_unknown_task_or_prompt_has_near_names(folder, name):
    message = fail(folder, "pocket/prompt_experts", f"MIXTURE_OR_TASK_NAME = '{name}'")
    assert f"'{name}'" in message
    assert "Did you mean: pocket_kinds" in message


def test_a_missing_data_folder_is_named_with_the_place_to_get_it(folder):
    message = fail(folder, "original/vocabulary", "DATA_DIR = '/no/data'")
    assert "'/no/data'" in message
    assert "github.com" in message


def test_a_missing_template_folder_is_named_with_the_command_that_makes_it(
    folder, tmp_path
):
    question = {"question": "What?", "choice": ["this", "that"], "answer": "this"}
    files.write_text(
        tmp_path / "data/dream/train.json",
        json.dumps([[["M: This."], [question], "1"]]),
    )
    message = fail(folder, "original/tasks", f"DATA_DIR = '{tmp_path}/data'")
    assert f"{folder}/templates/promptsource-0.2.3" in message
    assert "gin/original/templates.gin" in message


def test_a_field_that_rows_lack_is_named_with_its_template_and_task(folder):
    name = "MIXTURE_OR_TASK_NAME = 'errors_no_such_field'"
    message = fail(folder, "pocket/prompt_experts", *LITTLE, name)
    for part in ("'ask'", "'question'", "a, q", "task errors_no_such_field"):
        assert part in message


def test_rows_without_a_correct_choice_are_counted_and_the_first_is_named(folder):
    name = "MIXTURE_OR_TASK_NAME = 'errors_no_correct_choice'"
    message = fail(folder, "pocket/prompt_experts", *LITTLE, name)
    assert "12 of 12 rows" in message
    assert "row 0: no correct choice" in message


def test_an_empty_split_is_named(folder):
    split, name = "library.BuildLibrary.split = 'test'", "pocket_kinds_which_is"
    expert = folder / "prompt_experts" / name
    sample.replace_in_manifest(expert, f'"{name}"', '"errors_good"')
    message = fail(folder, "pocket/library", split)
    assert "test of task 'errors_good' is empty" in message


def test_targets_that_do_not_fit_their_length_are_counted(folder):
    lengths = "TASK_FEATURE_LENGTHS = {'inputs': 48, 'targets': 2}"
    name = "MIXTURE_OR_TASK_NAME = 'pocket_headlines_headline'"
    message = fail(folder, "pocket/prompt_experts", *LITTLE, name, lengths)
    assert "targets_length=2" in message
    assert "TASK_FEATURE_LENGTHS" in message


@pytest.mark.slow
def test_a_base_of_another_shape_is_told_by_its_tensors(folder):
    sample.replace_in_manifest(folder / "base", '"emb_dim": 16', '"emb_dim": 32')
    message = fail(folder, "pocket/prompt_experts", *LITTLE)
    assert "decoder/decoder_norm/scale (16,) instead of (32,)" in message


def test_a_manifest_with_an_unknown_field_of_the_model_is_told(folder):
    sample.replace_in_manifest(folder / "base", '"emb_dim"', '"embedding"')
    assert "'embedding'" in fail(folder, "pocket/prompt_experts", *LITTLE)


def test_an_expert_of_another_base_is_refused(folder):
    shutil.rmtree(folder / "base")
    failing.save_base(folder, seed=1)
    message = fail(folder, "pocket/merge", *MERGE)
    assert "pocket_topics" in message


def test_a_corrupt_manifest_is_named(folder):
    (folder / "base" / manifest.FILE_NAME).write_text('{"name": 3')
    message = fail(folder, "pocket/prompt_experts", *LITTLE)
    assert f"{folder}/base/manifest.json" in message


def test_a_missing_base_is_named_before_anything_else_is_made(tmp_path):
    message = fail(tmp_path, "pocket/prompt_experts", *LITTLE)
    assert f"no base in {tmp_path}/base" in message
    assert [path.name for path in tmp_path.iterdir()] == ["config"]


@pytest.mark.slow
def test_a_folder_with_brackets_is_no_pattern_and_is_printed_as_it_is(
    experts_dir, tmp_path, capsys
):
    shutil.copytree(experts_dir, tmp_path / "run2")
    folder = shutil.copytree(experts_dir, tmp_path / "run[2] x[/y]")
    bindings = (f"MODEL_DIR = '{folder}'", *MERGE)
    run, bound, operative = gin_flags.build_run(
        failing.RUNS, gin_files=["gin/pocket/merge.gin"], bindings=bindings
    )
    run.show_plan()
    # A cell may be broken anywhere, also at the space.
    shown = re.sub(r"[│\s]", "", capsys.readouterr().out)
    assert "run[2]x[/y]/merged" in shown
    run.start(config=bound, operative_config=operative)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run2", "run[2] x["]
    assert not (tmp_path / "run2/merged").exists()
    assert len(list(folder.glob("merged/*/manifest.json"))) == 1
    shutil.rmtree(folder / "merged")
    shutil.rmtree(folder / "dataset_experts")
    assert f"no expert matches {folder}" in fail(folder, "pocket/merge", *MERGE)


def test_a_flag_that_takes_a_part_out_of_a_file_takes_its_options_out(folder, capsys):
    method = "merge.Merge.method = 'uniform'"
    bindings = (f"MODEL_DIR = '{folder}'", method)
    run, *_ = gin_flags.build_run(
        failing.RUNS, gin_files=["gin/pocket/merge.gin"], bindings=bindings
    )
    assert isinstance(run, merge.Merge)
    assert run.method == "uniform"
    message = "TaskArithmetic.scale is not used, as --gin.merge.Merge.method takes"
    assert message in capsys.readouterr().err
    # What the flags themselves ask for has to be used, and so has what is misspelt.
    message = fail(folder, "pocket/merge", method, *MERGE)
    assert (
        "bindings that nothing reads: task_arithmetic.TaskArithmetic.scale" in message
    )
    message = fail(folder, "pocket/merge", method, "TRAIN_STEPS = 3")
    assert "bindings that nothing reads: TRAIN_STEPS" in message


def test_a_flag_that_takes_a_part_out_takes_out_what_only_that_part_names(capsys):
    stages = "merge_stages.Stages.stages = (@soup/merge.Merge(),)"
    run, *_ = gin_flags.build_run(
        [merge_stages.Stages],
        gin_files=["gin/pocket/merging_all.gin"],
        bindings=("MODEL_DIR = 'runs'", stages),
    )
    assert [stage.expert_name for stage in run.stages] == ["all_greedy_soup"]
    printed = capsys.readouterr().err
    taken_out = "as --gin.merge_stages.Stages.stages takes"
    assert f"AdaMerging.max_steps is not used, {taken_out}" in printed
    assert f"adamerging/merge.Merge.search is not used, {taken_out}" in printed
    assert "GreedySoup" not in printed


def test_options_under_the_scope_of_who_names_a_part_go_with_it(tmp_path, capsys):
    more = tmp_path / "more.gin"
    more.write_text(
        "from __gin__ import dynamic_registration\n"
        "from elm_jax.runs import merge\n"
        "from elm_jax.runs import merge_stages\n"
        "from elm_jax.merging import elementwise\n"
        "merge_stages.Stages.model_dir = 'runs'\n"
        "merge_stages.Stages.stages = (@s/merge.Merge(),)\n"
        "merge.Merge.model_dir = 'runs'\n"
        "merge.Merge.initial_checkpoint_path = 'runs/base'\n"
        "merge.Merge.experts = ('runs/experts/*',)\n"
        "s/merge.Merge.expert_name = 'merged'\n"
        "merge.Merge.method = @elementwise.Ties()\n"
        "s/elementwise.Ties.density = 0.2\n"
    )
    gin_flags.build_run(
        [merge_stages.Stages],
        gin_files=[str(more)],
        bindings=["merge.Merge.method = 'uniform'"],
    )
    assert "s/elementwise.Ties.density is not used" in capsys.readouterr().err


def test_a_flag_that_takes_parts_out_takes_out_macros_that_only_they_name(capsys):
    run, *_ = gin_flags.build_run(
        [evaluate.Evaluate],
        gin_files=["gin/pocket/merging_lora.gin"],
        bindings=(
            "MODEL_DIR = 'runs'",
            "evaluate.Evaluate.strategies = ('retrieved',)",
        ),
    )
    assert run.strategies == ("retrieved",)
    assert "RANK is not used, as" in capsys.readouterr().err


@contextlib.contextmanager
def files_of_at_most(num_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_expert(folder):
    with files_of_at_most(20_000):
        message = fail(folder, "pocket/merge", *MERGE)
    assert "free space" in message
    assert not list((folder / "merged").iterdir())


def test_a_full_disk_leaves_no_configuration(folder):
    with files_of_at_most(10):
        assert "cannot be written" in fail(folder, "pocket/merge", *MERGE)
    assert not list((folder / "config").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocked", "gin_file", "bindings"),
    [
        ("config", "pocket/merge", MERGE),
        ("merged", "pocket/merge", MERGE),
        ("prompt_experts", "pocket/prompt_experts", LITTLE),
        ("work", "pocket/prompt_experts", LITTLE),
        ("cache", "pocket/prompt_experts", LITTLE),
    ],
)
def test_a_place_that_cannot_be_written_is_named(folder, blocked, gin_file, bindings):
    shutil.rmtree(folder / blocked, ignore_errors=True)
    (folder / blocked).touch()  # a file: not even root can make a folder of it
    message = fail(folder, gin_file, *bindings)
    assert f"{folder}/{blocked}" in message
    assert "cannot be written" in message


def test_retiring_an_unknown_expert_retires_nobody(folder):
    names = "EXPERTS = ('pocket_kinds_which_is', 'pocket_kinds_witch_is')"
    message = fail(folder, "pocket/retire", names)
    assert "'pocket_kinds_witch_is'" in message
    assert "Did you mean: pocket_kinds_which_is?" in message
    listed = catalogue.Catalogue(folder / "library")
    assert listed.experts() == ("pocket_kinds_which_is",)
