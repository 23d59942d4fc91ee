"""Every binary with its runs, each built from a gin file of the project."""

import dataclasses
import importlib
import shutil

import pytest

from elm_jax import fields
from elm_jax.cli import gin_flags, selectors
from elm_jax.data import tasks
from elm_jax.runs import reading

BINARIES = ("train", "library", "eval", "merge", "convert", "report", "tasks")


def runs_of(binary):
    return importlib.import_module(f"elm_jax.cli.elm_{binary}").runs()


RUN_TYPES = [run for binary in BINARIES for run in runs_of(binary)]
# Other tests have parts of their own, which extend those of the project.
PARTS = [
    part
    for part in selectors.with_parts([*RUN_TYPES, reading.Reading])
    if part.__module__.startswith("elm_jax.")
]


def held_by(value):
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from held_by(getattr(value, field.name))


@pytest.fixture(scope="session")
def built_runs():
    """Every run by its type, with the work folder `anywhere`."""
    by_type = {}
    for binary in BINARIES:
        runs = runs_of(binary)
        for name in reversed(selectors.gin_files(f"elm_{binary} ")):
            if not {*runs} <= {*by_type}:
                bindings = ["MODEL_DIR = 'anywhere'"]
                built, *_ = gin_flags.build_run(
                    runs, gin_files=[name], bindings=bindings
                )
                by_type.setdefault(type(built), built)
        assert {*runs} <= {*by_type}
    return by_type


@pytest.fixture(scope="session")
def examples(built_runs):
    """A value of every dataclass that a gin file can configure, by its type."""
    values = {
        type(value): value for run in built_runs.values() for value in held_by(run)
    }
    return {part: values[part] if part in values else example(part) for part in PARTS}


def example(part):
    """Returns a value of a part that no gin file names; what it needs are paths."""
    needed = [f.name for f in fields.of(part) if f.default is dataclasses.MISSING]
    return part(**dict.fromkeys(needed, "anywhere"))


@pytest.fixture(scope="session")
def experts_dir(tmp_path_factory):
    """A base, experts and a catalogue; to be read alone."""
    from tests.cli import failing

    path = tmp_path_factory.mktemp("made")
    failing.make_experts(path)
    return path


@pytest.fixture
def folder(experts_dir, tmp_path):
    """A copy of `experts_dir` that may change, and tasks that are as none should be."""
    from tests.cli import failing

    tasks.registry.add(*failing.TASKS)
    yield shutil.copytree(experts_dir, tmp_path / "run")
    for task in failing.TASKS:
        tasks.registry.remove(task.name)
