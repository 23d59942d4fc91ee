import dataclasses

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import digests, experts, streaming
from elm_jax.cli import gin_flags
from elm_jax.limits import limited
from elm_jax.runs import reading, tasks
from tests.checkpoints import sample

FILE = """
from __gin__ import dynamic_registration
from elm_jax.runs import reading
from elm_jax.runs import tasks as task_runs
task_runs.FetchTemplates.model_dir = "x"
reading.Reading.cpu_secs = 9
"""


@pytest.fixture(autouse=True)
def as_before():
    yield
    reading.Reading().use()


def build(tmp_path, *bindings, text=FILE):
    path = tmp_path / "run.gin"
    path.write_text(text)
    return gin_flags.build_run(
        [tasks.FetchTemplates, tasks.ListTasks],
        gin_files=[str(path)],
        bindings=bindings,
    )


def test_a_gin_file_sets_the_limits_of_the_process(tmp_path):
    build(tmp_path, f"reading.Reading.memory_bytes = {2**29}")
    assert limited.current() == limited.Limits(cpu_secs=9, memory_bytes=2**29)
    assert limited.worker().limits == limited.current()
    plain = "\n".join(line for line in FILE.splitlines() if "eading" not in line)
    build(tmp_path, text=plain)
    assert limited.current() == limited.DEFAULT


def test_rows_have_the_limits_of_the_process_unless_a_run_has_others():
    reading.Reading(wall_secs=7.0).use()
    run = tasks.ListTasks(model_dir="x", tasks="a")
    assert run.data_options.limits == limited.Limits(wall_secs=7.0)
    changed = dataclasses.replace(run, limits=limited.Limits(cpu_secs=1.0))
    assert changed.data_options.limits == limited.Limits(cpu_secs=1.0)


def test_limits_out_of_their_range_and_misspelt_ones_are_refused(tmp_path):
    for binding, message in {
        "reading.Reading.cpu_secs = 0": "above 0",
        "reading.Reading.memory_bytes = 1": "memory_bytes",
        "reading.Reading.compare_tensors = 3": "bool",
        "reading.Reading.cpu_sec = 1.0": "cpu_secs",
    }.items():
        with pytest.raises(errors.ConfigError, match=message):
            build(tmp_path, binding)


def test_tensors_are_not_compared_where_a_gin_file_says_so(tmp_path, capsys):
    folder = tmp_path / "x"
    info = sample.make_manifest()
    experts.save_expert(folder, sample.make_expert(), info)
    other_folder = tmp_path / "other"
    changed = trees.unflatten(
        {n: np.asarray(a) + 1 for n, a in trees.flatten(sample.make_expert()).items()}
    )
    experts.save_expert(other_folder, changed, info)
    (folder / "manifest.json").replace(other_folder / "manifest.json")
    with pytest.raises(errors.CheckpointError, match="other tensors"):
        experts.load_expert(other_folder)
    build(tmp_path, "reading.Reading.compare_tensors = False")
    digests._tell_not_compared.cache_clear()
    params, _ = experts.load_expert(other_folder)
    assert trees.fingerprint(params) == trees.fingerprint(changed)
    leaves, _ = streaming.open_expert(other_folder)
    for leaf in leaves.values():
        assert sum(1 for _ in leaf.blocks())
    assert capsys.readouterr().err.count("not compared") == 1
