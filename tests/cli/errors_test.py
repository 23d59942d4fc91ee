"""What a user can get wrong ends in words that help, and leaves nothing half-done.

Every test gives the settings of a gin file as a user would. The base and its experts
are fresh parameters: nothing here trains.
"""

import contextlib
import dataclasses
import json
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.cli import gin_flags, selectors
from elm_jax.data import sources, templates
from elm_jax.data import tasks as registered
from elm_jax.disk import files
from elm_jax.library import catalogue
from elm_jax.model import config, t5
from elm_jax.peft import bottleneck, expert_parts
from elm_jax.runs import bases, convert, evaluate, library, merge, report, tasks, train
from tasks import pocket
from tests.checkpoints import sample

RUNS = (train.Train, evaluate.Evaluate, merge.Merge, report.Report, convert.ImportT5X)
RUNS += (library.BuildLibrary, library.RetireExperts, library.Retrieve)
RUNS += (tasks.ListTasks, tasks.TrainVocabulary)
SHAPE = config.T5Config(
    vocab_size=pocket.VOCABULARY.size,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
ADAPTER = bottleneck.Bottleneck(reduction_factor=4)
LITTLE = ("TRAIN_STEPS = 2", "BATCH_SIZE = 8")
MERGE = ("task_arithmetic.TaskArithmetic.scale = 1.0",)


def good_rows(split):
    rows = [{"q": f"Is {n} odd", "a": ("no", "yes")[n % 2]} for n in range(12)]
    return rows if split == "train" else []


def wrong_rows(split):
    return [row | {"a": "perhaps"} for row in good_rows(split)]


def make_task(name, rows, *, jinja="{{q}}? ||| {{a}}"):
    return registered.Task(
        name=name,
        dataset=name,
        prompt="ask",
        cluster="Questions",
        source=sources.GeneratedRows(rows, "1"),
        template=templates.Template("ask", "1", jinja, "no ||| yes"),
        metrics=("accuracy",),
    )


registered.registry.add(
    make_task("errors_good", good_rows),
    make_task("errors_no_correct_choice", wrong_rows),
    make_task("errors_no_such_field", good_rows, jinja="{{question}}? ||| {{a}}"),
)


def save_base(folder, seed):
    params = t5.init_params(t5.T5(SHAPE), seed=seed)
    facts = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=trees.fingerprint(params),
        model=dataclasses.asdict(SHAPE),
        trainable_pattern=".*",
    )
    experts.save_expert(folder / "base", params, facts)
    return params, facts


def make_experts(path):
    """Makes a base, two dataset experts, a prompt expert and a catalogue of it."""
    params, facts = save_base(path, seed=0)
    for name in ("pocket_topics", "pocket_reviews"):
        info = dataclasses.replace(facts, name=name, kind="dataset", tasks=(name,))
        experts.save_expert(path / "dataset_experts" / name, params, info)
    model = bases.build_model(SHAPE, ADAPTER)
    pattern = expert_parts.trainable_pattern("adapters_and_norms")
    part, _ = trees.split(t5.init_params(model, seed=0), pattern)
    name = "pocket_kinds_which_is"
    info = dataclasses.replace(facts, name=name, kind="prompt", tasks=(name,))
    info = dataclasses.replace(info, adapter=bases.describe(ADAPTER))
    info = dataclasses.replace(info, trainable_pattern=pattern)
    experts.save_expert(path / "prompt_experts" / name, part, info)
    catalogue.Catalogue(path / "library").add(path / "prompt_experts" / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made")
    make_experts(path)
    return path


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def fail(folder, gin_file, *bindings):
    """Returns the message of the error that a run ends with."""
    with pytest.raises(errors.ElmError) as caught:
        built, bound, operative = gin_flags.build_run(
            RUNS,
            gin_files=[f"gin/{gin_file}.gin"],
            bindings=[f"MODEL_DIR = '{folder}'", *bindings],
        )
        built.start(config=bound, operative_config=operative)
    message = str(caught.value)
    for part in ("Found: ", "Expected: ", "To do: "):
        assert message.count(part) == 1
    partial = [p for p in folder.rglob(".*") if p.name != ".lock"]
    assert not partial
    return "\n".join((message, *getattr(caught.value, "__notes__", ())))


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


@pytest.mark.parametrize("name", ["pocket_kindz", "pocket_kinds_which_iss"])
def test_an_unknown_task_or_prompt_has_near_names(folder, name):
    told = fail(folder, "pocket/prompt_experts", f"MIXTURE_OR_TASK_NAME = '{name}'")
    assert f"'{name}'" in told
    assert "Did you mean: pocket_kinds" in told


def test_a_missing_data_folder_is_named_with_the_place_to_get_it(folder):
    told = fail(folder, "original/vocabulary", "DATA_DIR = '/no/data'")
    assert "'/no/data'" in told
    assert "github.com" in told


def test_a_missing_template_folder_is_named_with_the_command_that_makes_it(
    folder, tmp_path
):
    question = {"question": "What?", "choice": ["this", "that"], "answer": "this"}
    files.write_text(
        tmp_path / "data/dream/train.json",
        json.dumps([[["M: This."], [question], "1"]]),
    )
    told = fail(folder, "original/tasks", f"DATA_DIR = '{tmp_path}/data'")
    assert f"{folder}/templates/promptsource-0.2.3" in told
    assert "gin/original/templates.gin" in told


def test_a_field_that_rows_lack_is_named_with_its_template_and_task(folder):
    name = "MIXTURE_OR_TASK_NAME = 'errors_no_such_field'"
    told = fail(folder, "pocket/prompt_experts", *LITTLE, name)
    for part in ("'ask'", "'question'", "a, q", "task errors_no_such_field"):
        assert part in told


def test_rows_without_a_correct_choice_are_counted_and_the_first_is_named(folder):
    name = "MIXTURE_OR_TASK_NAME = 'errors_no_correct_choice'"
    told = fail(folder, "pocket/prompt_experts", *LITTLE, name)
    assert "12 of 12 rows" in told
    assert "row 0: no correct choice" in told


def test_an_empty_split_is_named(folder):
    split, name = "library.BuildLibrary.split = 'test'", "pocket_kinds_which_is"
    expert = folder / "prompt_experts" / name
    sample.replace_in_manifest(expert, f'"{name}"', '"errors_good"')
    told = fail(folder, "pocket/library", split)
    assert "test of task 'errors_good' is empty" in told


def test_targets_that_do_not_fit_their_length_are_counted(folder):
    lengths = "TASK_FEATURE_LENGTHS = {'inputs': 48, 'targets': 2}"
    name = "MIXTURE_OR_TASK_NAME = 'pocket_headlines_headline'"
    told = fail(folder, "pocket/prompt_experts", *LITTLE, name, lengths)
    assert "targets_length=2" in told
    assert "TASK_FEATURE_LENGTHS" in told


def test_a_base_of_another_shape_is_told_by_its_tensors(folder):
    sample.replace_in_manifest(folder / "base", '"emb_dim": 16', '"emb_dim": 32')
    told = fail(folder, "pocket/prompt_experts", *LITTLE)
    assert "decoder/decoder_norm/scale (16,) instead of (32,)" in told


def test_a_manifest_with_an_unknown_field_of_the_model_is_told(folder):
    sample.replace_in_manifest(folder / "base", '"emb_dim"', '"embedding"')
    assert "'embedding'" in fail(folder, "pocket/prompt_experts", *LITTLE)


def test_an_expert_of_another_base_is_refused(folder):
    shutil.rmtree(folder / "base")
    save_base(folder, seed=1)
    told = fail(folder, "pocket/merge", *MERGE)
    assert "pocket_topics" in told


def test_a_corrupt_manifest_is_named(folder):
    (folder / "base" / manifest.FILE_NAME).write_text('{"name": 3')
    told = fail(folder, "pocket/prompt_experts", *LITTLE)
    assert f"{folder}/base/manifest.json" in told


def test_a_missing_base_is_named_before_anything_else_is_made(tmp_path):
    told = fail(tmp_path, "pocket/prompt_experts", *LITTLE)
    assert f"no base in {tmp_path}/base" in told
    assert [path.name for path in tmp_path.iterdir()] == ["config"]


def test_a_folder_with_brackets_is_no_pattern_and_is_printed_as_it_is(
    made, tmp_path, capsys
):
    shutil.copytree(made, tmp_path / "run2")
    folder = shutil.copytree(made, tmp_path / "run[2] x[/y]")
    bindings = (f"MODEL_DIR = '{folder}'", *MERGE)
    run, bound, operative = gin_flags.build_run(
        RUNS, gin_files=["gin/pocket/merge.gin"], bindings=bindings
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
        RUNS, gin_files=["gin/pocket/merge.gin"], bindings=bindings
    )
    assert isinstance(run, merge.Merge)
    assert run.method == "uniform"
    told = "TaskArithmetic.scale is not used, as --gin.merge.Merge.method takes"
    assert told in capsys.readouterr().err
    # What the flags themselves ask for has to be used, and so has what is misspelt.
    told = fail(folder, "pocket/merge", method, *MERGE)
    assert "bindings that nothing reads: task_arithmetic.TaskArithmetic.scale" in told
    told = fail(folder, "pocket/merge", method, "TRAIN_STEPS = 3")
    assert "bindings that nothing reads: TRAIN_STEPS" in told


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
        told = fail(folder, "pocket/merge", *MERGE)
    assert "free space" in told
    assert not list((folder / "merged").iterdir())


def test_a_full_disk_leaves_no_configuration(folder):
    with files_of_at_most(10):
        assert "cannot be written" in fail(folder, "pocket/merge", *MERGE)
    assert not list((folder / "config").iterdir())


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
    told = fail(folder, gin_file, *bindings)
    assert f"{folder}/{blocked}" in told
    assert "cannot be written" in told


@pytest.mark.parametrize(
    ("binding", "parts"),
    [
        ("TRAIN_STEP = 2", ["TRAIN_STEP", "mean: TRAIN_STEPS, "]),
        ("train.Train.train_step = 2", ["'train_step'", "mean: train_steps"]),
        ("train.Trian.train_steps = 2", ["'train.Trian'", "train.Train?"]),
        ("config.T5Config.emb_dims = 2", ["'emb_dims'", "Did you mean: emb_dim"]),
        ("train.Train.train_steps = %STEPS", ["no macro STEPS", "TRAIN_STEPS?"]),
        ("TRAIN_STEPS = [2", ["EOF"]),
        ("TRAIN_STEPS = 'many'", ["'many'", "int"]),
        ("TRAIN_STEPS = 2.5", ["train_steps = 2.5", "int"]),
        ("TRAIN_STEPS = 0", ["train_steps = 0", "at least 1"]),
        ("train.Train.dropout_rate = 2", ["dropout_rate = 2"]),
        ("options.Saving.keep_every_steps = 7", ["keep_every_steps = 7", "multiple"]),
        ("train.Train.kind = 'bass'", ["'bass'", "prompt"]),
        ("placement.Placement.axis_rules = 'dta'", ["'dta'", "Did you mean: data"]),
        (
            "placement.Placement.num_fsdp = 2",
            ["num_fsdp = 2", "'fsdp' or 'fsdp_model'"],
        ),
        ("config.T5Config.emb_dim = 'wide'", ["emb_dim = 'wide'"]),
        ("optimizers.AdamW.learning_rate = 'fast'", ["learning_rate = 'fast'"]),
        ("TASK_FEATURE_LENGTHS = 64", ["64", "TASK_FEATURE_LENGTHS"]),
        ("TASK_FEATURE_LENGTHS = {'inputs': 'a', 'targets': 3}", ["'a'"]),
        ("task_data.TaskData.vocabulary_path = 3", ["vocabulary_path = 3"]),
    ],
)
def test_a_wrong_name_or_value_is_told_before_anything_is_written(
    tmp_path, binding, parts
):
    told = fail(tmp_path, "pocket/base", binding)
    for part in parts:
        assert part in told
    assert not list(tmp_path.iterdir())


def test_a_batch_that_the_devices_do_not_divide_is_told_before_compiling(tmp_path):
    told = fail(tmp_path, "pocket/base", "BATCH_SIZE = 12")
    assert "12 rows for 8 devices" in told
    assert "Set BATCH_SIZE to 16" in told


def test_a_misspelt_file_has_near_names(tmp_path):
    assert "Did you mean: gin/pocket/base.gin" in fail(tmp_path, "pocket/bsae")


def test_a_vocabulary_larger_than_the_model_is_told(tmp_path):
    told = fail(tmp_path, "pocket/base", "config.T5Config.vocab_size = 100")
    assert f"{pocket.VOCABULARY.size} ids for a model with 100" in told


def test_a_missing_vocabulary_is_told_once(tmp_path):
    path = "task_data.TaskData.vocabulary_path = '/no/such.model'"
    assert "'/no/such.model'" in fail(tmp_path, "pocket/base", path)


def test_a_missing_library_is_named_with_the_binary_that_builds_it(tmp_path):
    told = fail(tmp_path, "pocket/retrieve")
    assert f"{tmp_path}/library" in told
    assert "elm_library" in told


def test_retiring_an_unknown_expert_retires_nobody(folder):
    names = "EXPERTS = ('pocket_kinds_which_is', 'pocket_kinds_witch_is')"
    told = fail(folder, "pocket/retire", names)
    assert "'pocket_kinds_witch_is'" in told
    assert "Did you mean: pocket_kinds_which_is?" in told
    listed = catalogue.Catalogue(folder / "library")
    assert listed.experts() == ("pocket_kinds_which_is",)


def test_a_report_without_results_names_the_binary_that_writes_them(tmp_path):
    told = fail(tmp_path, "pocket/report")
    assert f"{tmp_path}/results.jsonl" in told
    assert "elm_eval" in told


def test_results_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    assert f"{tmp_path}/results.jsonl" in fail(tmp_path, "pocket/report")


def test_a_missing_t5x_checkpoint_is_named(tmp_path):
    told = fail(tmp_path, "t5/import_small", "T5X_PATH = '/no/t5x'")
    assert "no folder /no/t5x" in told
