"""`--help` tells every flag, file and field; a wrong name is told with what is near."""

import importlib
import os
import subprocess
import sys

import pytest

from elm_jax import errors, fields
from elm_jax.cli import gin_errors, gin_flags, help_text, selectors
from elm_jax.runs import reading
from tests.cli import conftest as runs


def help_of(binary):
    module = importlib.import_module(f"elm_jax.cli.elm_{binary}")
    own_flags = gin_flags.flags.FLAGS.flags_by_module_dict()[gin_flags.__name__]
    return help_text.make(module.__doc__, [*module.runs(), reading.Reading], own_flags)


@pytest.mark.parametrize("binary", runs.BINARIES)
def test_help_names_every_field_with_its_range_and_meaning(binary):
    text = help_of(binary)
    assert text.startswith(f"elm_{binary}: ")
    assert f"Usage: elm_{binary} --gin_file=FILE" in text
    for flag in ("--gin_file", "--gin.NAME=VALUE", "--dry_run", "--help"):
        assert f"  {flag}" in text
    for part in selectors.with_parts([*runs.runs_of(binary), reading.Reading]):
        for field in fields.of(part):
            name = f"  {selectors.of(part)}.{field.name}\n"
            assert name in text
            after = text[text.index(name) + len(name) :]
            assert after.startswith(f"      {fields.describe(field.hint)}; ")
    for name in selectors.gin_files(f"elm_{binary} "):
        assert f"  {name}\n" in text


@pytest.mark.parametrize("part", runs.PARTS, ids=lambda part: part.__name__)
def test_every_field_is_documented(part):
    documented = help_text.documented(part)
    names = [field.name for field in fields.of(part)]
    assert sorted(documented) == sorted(names)
    assert all(documented.values())


def test_every_gin_file_belongs_to_one_binary():
    names = [n for b in runs.BINARIES for n in selectors.gin_files(f"elm_{b} ")]
    assert sorted(names) == sorted(selectors.gin_files())


@pytest.mark.parametrize("run_type", runs.RUN_TYPES, ids=lambda run: run.__name__)
def test_help_of_a_gin_file_shows_its_values(built_runs, run_type):
    text = help_text.make_of_run("elm_x: does", built_runs[run_type], "A_NAME = 'x'\n")
    assert "--gin.A_NAME='x'" in text
    assert f"{selectors.of(run_type)}.model_dir\n" in text
    assert "is 'anywhere'" in text


def test_help_of_a_gin_file_needs_no_value_that_has_to_be_given():
    run, _, operative = gin_flags.build_run(
        runs.runs_of("convert"),
        gin_files=["gin/t5/import_small.gin"],
        show_required=True,
    )
    assert run.model_dir == "<MODEL_DIR>"
    assert "MODEL_DIR = '<MODEL_DIR>'" in operative


def start(*arguments, cwd, **environment):
    """Runs a binary as a program, with nothing of the project's on its path."""
    command = [sys.executable, "-m", *arguments]
    root = str(selectors.files_root())
    return subprocess.run(
        command,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root, **environment},
        check=False,
    )


@pytest.mark.slow
def test_a_program_helps_with_status_0_and_without_tensorflow(tmp_path):
    done = start(
        "elm_jax.cli.elm_eval",
        "--help",
        "--gin_file=gin/pocket/evaluate.gin",
        cwd=tmp_path,
        PYTHONPROFILEIMPORTTIME="1",
    )
    assert done.returncode == 0
    assert b"evaluate.Evaluate.batch_size\n" in done.stdout
    assert b"is 128; default 64" in done.stdout
    assert b"elm_jax.cli.gin_flags" in done.stderr
    assert b" tensorflow" not in done.stderr
    assert not list(tmp_path.iterdir())


def build(tmp_path, text, binary, *bindings):
    path = tmp_path / "run.gin"
    path.write_text(text, "utf-8")
    with pytest.raises(errors.ConfigError) as caught:
        gin_flags.build_run(
            runs.runs_of(binary), gin_files=[str(path)], bindings=bindings
        )
    return str(caught.value)


DYNAMIC = "from __gin__ import dynamic_registration\n"


@pytest.mark.parametrize(
    "run_type", runs.RUN_TYPES, ids=lambda run_type: run_type.__name__
)
def test_a_missing_import_is_told_with_the_line_to_add(tmp_path, run_type):
    name = selectors.of(run_type)
    (binary,) = [b for b in runs.BINARIES if run_type in runs.runs_of(b)]
    message = build(tmp_path, f"{DYNAMIC}{name}.model_dir = 'x'\n", binary)
    assert f"`{selectors.import_line(run_type)}`" in message
    # What gin says of a file without its first line; here it knows the name already.
    error = ValueError(f"No configurable matching '{name}'.")
    message = gin_errors.explain(
        error, gin_files=[], bound="", run_types=[run_type], folders=[]
    )
    assert f"Add `{DYNAMIC.strip()}` and `{selectors.import_line(run_type)}`" in message


@pytest.mark.parametrize(
    ("binding", "advice"),
    [
        ("train.Train.batch_sise = 3", "Did you mean: batch_size"),
        ("batch_sise = 3", "Did you mean: BATCH_SIZE, train.Train.batch_size"),
        ("num_fsdp = 3", "Did you mean: placement.Placement.num_fsdp?"),
        ("learning_rat = 3", "optimizers.AdamW.learning_rate"),
        ("optimizers.AdamW.lr = 3", "learning_rate, scale_by_parameter, warmup_steps"),
        ("lora.Lorra.rank = 3", "Did you mean: lora.Lora"),
    ],
)
def test_an_unknown_name_is_told_with_fields_that_are_like_it(binding, advice):
    with pytest.raises(errors.ConfigError) as caught:
        gin_flags.build_run(
            runs.runs_of("train"),
            gin_files=["gin/pocket/prompt_experts.gin"],
            bindings=["MODEL_DIR = 'x'", binding],
        )
    assert advice in str(caught.value)
    assert "elm_jax.runs" not in str(caught.value)


def test_a_part_that_a_file_does_not_import_is_told_with_the_line_to_add():
    # As gin says it; here it knows the name from the files of other tests.
    error = ValueError("No configurable matching 'lora.Lora'.")
    message = gin_errors.explain(
        error,
        gin_files=[],
        bound=DYNAMIC,
        run_types=runs.runs_of("train"),
        folders=[],
    )
    assert "Add `from elm_jax.peft import lora` before it" in message
