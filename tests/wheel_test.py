"""An installed wheel finds its gin files, tasks and templates as a clone does."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from elm_jax.reporting import page

ROOT = pathlib.Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the wheel's content, built from a copy of the sources."""
    sources = tmp_path_factory.mktemp("sources")
    for name in ("elm_jax", "gin", "tasks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    options = ("--no-deps", "--no-build-isolation")
    subprocess.run(
        [*PIP, "wheel", *options, "--wheel-dir", wheels, sources], check=True
    )
    (wheel,) = wheels.glob("elm_jax-*.whl")
    subprocess.run(
        [*PIP, "install", "--no-deps", "--target", target, wheel], check=True
    )
    return target


def run_installed(installed, folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_tiny_training_runs_from_the_wheel_in_another_folder(installed, tmp_path):
    done = run_installed(
        installed,
        tmp_path,
        "elm_jax.cli.elm_train",
        "--gin_file=gin/pocket/base.gin",
        "--gin.MODEL_DIR=out",
        "--gin.TRAIN_STEPS=2",
        "--gin.BATCH_SIZE=8",
        "--gin.config.T5Config.emb_dim=16",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "base" / "manifest.json").is_file()


def test_the_wheel_is_what_ran(installed, tmp_path):
    code = "import elm_jax.trees, tasks.pocket; print(elm_jax.trees.__file__)"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.startswith(str(installed))


def test_the_wheel_holds_gin_files_templates_and_the_page(installed):
    for name in (
        "elm_jax/py.typed",
        "elm_jax/_files/gin/pocket/base.gin",
        "elm_jax/_files/gin/parts/suites/pocket.gin",
        "elm_jax/data/known_files.txt",
        "elm_jax/reporting/page.css",
        "elm_jax/reporting/page.html.jinja",
        "elm_jax/reporting/examples.css",
        "elm_jax/reporting/examples.html.jinja",
        *(f"elm_jax/reporting/{name}" for name in page.SCRIPTS),
        "tasks/pocket_world/pocket.model",
        "tasks/tables/prompts.csv",
        "tasks/tables/datasets.json",
        "tasks/tables/licences.csv",
        "tasks/tables/examples.json",
    ):
        assert (installed / name).is_file(), name
    assert list(installed.glob("tasks/pocket_world/templates/*/templates.yaml"))
    assert not (installed / "gin").exists()
