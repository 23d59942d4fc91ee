"""Every gin file outside gin/parts builds its run with a work folder alone."""

import pathlib
import re

import pytest

from elm_jax.cli import gin_flags
from elm_jax.runs import convert, evaluate, export, library, merge, report, tasks, train

ROOT = pathlib.Path(__file__).parents[2]
BINARIES = {
    "elm_train": (train.Train,),
    "elm_library": (
        library.BuildLibrary,
        library.ListExperts,
        library.RetireExperts,
        library.Retrieve,
    ),
    "elm_eval": (evaluate.Evaluate,),
    "elm_merge": (merge.Merge,),
    "elm_convert": (
        convert.ImportT5X,
        convert.ImportHuggingFace,
        export.ExportHuggingFace,
        export.ExportT5X,
    ),
    "elm_report": (report.Report,),
    "elm_tasks": (tasks.ListTasks, tasks.FetchTemplates, tasks.TrainVocabulary),
}
FILES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.glob("gin/**/*.gin"))
    if "parts" not in path.parts
]


def header(name):
    lines = (ROOT / name).read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", FILES)
def test_a_gin_file_builds_with_a_work_folder_alone(name):
    binary = re.search(r"elm_\w+", header(name))[0]
    run, _, operative = gin_flags.build_run(
        BINARIES[binary], gin_files=[name], bindings=["MODEL_DIR = 'anywhere'"]
    )
    assert run.model_dir == "anywhere"
    assert operative


@pytest.mark.parametrize("name", FILES)
def test_the_header_of_a_gin_file_gives_its_own_command(name):
    text = header(name)
    assert f"--gin_file={name}" in text
    assert "--gin.MODEL_DIR=" in text
    assert len(text.splitlines()) >= 5


@pytest.mark.parametrize(
    "name", [f for f in FILES if "train.Train" in (ROOT / f).read_text()]
)
def test_the_tasks_of_a_training_are_registered(name):
    run, _, _ = gin_flags.build_run(
        (train.Train,), gin_files=[name], bindings=["MODEL_DIR = 'anywhere'"]
    )
    assert run.experts()


def test_experts_that_a_gin_file_names_are_trained_by_another():
    trained = set()
    for kind in ("prompt_experts", "dataset_experts"):
        run, _, _ = gin_flags.build_run(
            (train.Train,),
            gin_files=[f"gin/pocket/{kind}.gin"],
            bindings=["MODEL_DIR = 'anywhere'"],
        )
        trained |= {f"{kind}/{name}" for name in run.experts()}
    named = set()
    for path in ROOT.glob("gin/pocket/*.gin"):
        named |= set(re.findall(r"\w+_experts/\w+", path.read_text()))
    assert named
    assert named <= trained


def test_a_training_may_compute_its_base_in_another_way():
    run, _, _ = gin_flags.build_run(
        (train.Train,),
        gin_files=["gin/t5/prompt_experts.gin", "gin/parts/execution.gin"],
        bindings=[
            "MODEL_DIR = 'anywhere'",
            "config.Execution.attention = 'dot_product'",
            "train.Train.dropout_rate = 0.0",
        ],
    )
    assert run.execution.attention == "dot_product"
