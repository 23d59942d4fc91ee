"""Folders of 250 letters work wherever one is given; longer ones are refused first."""

import shutil

import pytest

from elm_jax import errors, paths
from elm_jax.checkpoints import manifest
from elm_jax.cli import gin_flags
from elm_jax.library import catalogue
from elm_jax.runs import export, library, merge, tasks, work_folders
from tests.cli import failing

RUNS = (merge.Merge, export.ExportHuggingFace, library.RetireExperts)
RUNS += (tasks.TrainVocabulary,)
LONG = "n" * 250
NAME = "n" * paths.NAME_BYTES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / LONG
    failing.make_experts(path)
    return path


def run(folder, gin_file, *bindings):
    built, bound, operative = gin_flags.build_run(
        RUNS,
        gin_files=[f"gin/{gin_file}.gin"],
        bindings=[f"MODEL_DIR = '{folder}'", *bindings],
    )
    built.start(config=bound, operative_config=operative)


@pytest.mark.slow
def test_an_expert_of_a_long_name_is_made_and_listed(folder):
    for _ in range(2):  # the second finds it finished
        place = f"merge.Merge.experts_dir = '{{MODEL_DIR}}/{LONG}'"
        run(folder, "pocket/merge", f"merge.Merge.expert_name = '{NAME}'", place)
    assert manifest.read_manifest(folder / LONG / NAME).name == NAME
    listed = catalogue.Catalogue(folder / LONG)
    listed.add(folder / LONG / NAME)
    assert listed.experts() == (NAME,)


def test_an_export_goes_into_a_folder_of_a_long_name(folder):
    place = f"export.ExportHuggingFace.export_dir = '{{MODEL_DIR}}/{LONG}/hf'"
    run(folder, "t5/export_hf", place)
    assert (folder / LONG / "hf" / "base" / "model.safetensors").is_file()


def test_work_of_experts_that_lie_elsewhere_has_a_folder_of_a_shorter_name(folder):
    work_dirs = {
        work_folders.of_expert(folder, folder.parent / f"{LONG}{n}", LONG)
        for n in range(3)
    }
    assert len(work_dirs) == 3
    for path in work_dirs:
        path.mkdir(parents=True)


@pytest.mark.parametrize(
    ("gin_file", "binding"),
    [
        ("pocket/merge", f"merge.Merge.expert_name = '{NAME}n'"),
        ("pocket/merge", f"merge.Merge.experts_dir = '{{MODEL_DIR}}/{LONG}{LONG}'"),
        ("pocket/retire", f"library.RetireExperts.library_dir = '{LONG}{LONG}'"),
        (
            "original/vocabulary",  # its recipe's name is longer
            f"task_runs.TrainVocabulary.vocabulary_path = '{LONG}'",
        ),
    ],
)
def test_what_is_too_long_is_told_before_anything_is_made(
    folder, tmp_path, gin_file, binding
):
    model_dir = tmp_path / "run"
    shutil.copytree(folder, model_dir)
    before = {path for path in model_dir.rglob("*") if "config" not in path.parts}
    with pytest.raises(errors.ConfigError, match="at most 255|1 to 200"):
        run(model_dir, gin_file, binding)
    after = {path for path in model_dir.rglob("*") if "config" not in path.parts}
    assert after == before


def test_a_work_folder_that_is_too_long_is_told(tmp_path):
    with pytest.raises(errors.ConfigError, match="at most 255"):
        run(tmp_path / (LONG + LONG), "pocket/merge")
    assert not list(tmp_path.iterdir())
