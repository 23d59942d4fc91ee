"""Two experts, a few steps each, as a fleet and one after another: both are the same.

Fast tests of both schedules; `fleet_test` and `solo_test` have longer trainings.
"""

import json

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.checkpoints import experts
from tests.runs.training import landed

SCHEDULES = {"fleet": 4, "alone": 0}  # by the most experts at a time
STEPS = {landed.SHORT: 3, landed.LONG: 2}
FEW = (
    *("TRAIN_STEPS = 2", "BATCH_SIZE = 8", "options.Batching.num_shapes = 1"),
    *("options.Metrics.every_steps = 1", "options.Saving.every_steps = 1000"),
    "train.Train.max_examples = 24",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder in which both schedules have trained the same experts."""
    path = landed.make_folder(tmp_path_factory.mktemp("both"))
    for schedule, size in SCHEDULES.items():
        run = landed.make_run(
            path,
            *FEW,
            f"options.Fleet.size = {size}",
            f"options.Results.experts_dir = '{{MODEL_DIR}}/{schedule}'",
            f"options.Results.library_dir = '{{MODEL_DIR}}/library_{schedule}'",
        )
        assert run.spec().is_fleet == (schedule == "fleet")
        run.run()
    return path


def rows_of(folder, schedule, name):
    lines = (folder / "work" / schedule / name / "metrics.jsonl").read_text()
    return [json.loads(line) for line in lines.splitlines()]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_expert_lands_with_its_steps_and_leaves_no_state(folder, schedule):
    for name, steps in STEPS.items():
        _, info = experts.load_expert(folder / schedule / name)
        assert (info.name, info.steps, info.base_name) == (name, steps, "base")
        rows = rows_of(folder, schedule, name)
        assert [row["step"] for row in rows] == [*range(1, steps + 1)]
        assert all(np.isfinite(row["loss"]) and row["loss"] > 0 for row in rows)
    assert not [*(folder / "work").rglob("state")]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_trains_moves_and_is_all_that_an_expert_holds(folder, schedule):
    base = trees.flatten(experts.load_expert(folder / "base")[0])
    held = [
        trees.flatten(experts.load_expert(folder / schedule / name)[0])
        for name in STEPS
    ]
    assert held[0].keys() == held[1].keys()
    norms = held[0].keys() & base.keys()
    assert norms == {name for name in base if "norm" in name}
    assert all("adapter" in name for name in held[0].keys() - norms)
    for params in held:
        assert all((params[name] != base[name]).any() for name in norms)
    assert any((held[0][name] != held[1][name]).any() for name in norms)


def test_an_expert_is_the_same_in_both_schedules(folder):
    """One device adds in another order than eight: 1e-4 after 3 steps."""
    for name in STEPS:
        losses = [
            [row["loss"] for row in rows_of(folder, each, name)] for each in SCHEDULES
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4)
        params = [
            experts.load_expert(folder / each / name)[0]["encoder"]
            for each in SCHEDULES
        ]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *params
        )
