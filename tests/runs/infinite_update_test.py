"""An update that no loss tells of, the last, is looked at in every kind of training."""

import pytest

from elm_jax import errors
from tests.runs.training import fleets

pytestmark = pytest.mark.slow

ONE = ("TRAIN_STEPS = 1", "BATCH_SIZE = 8", "options.Batching.num_shapes = 1")
# The first update of Adam is the rate, and more where a parameter decays.
DECAYS = "optimizers.AdamW.weight_decay = 1.0"
TOO_FAST, SLOWER = "LEARNING_RATE = 3.4e38", "LEARNING_RATE = 1e-3"
NAMES = ("pocket_kinds_which_is", "pocket_notes_tell")


def start(folder, base, kind, *bindings):
    for name in ("base", "cache"):
        if not (folder / name).exists():
            (folder / name).symlink_to(base / name)
    fleets.start(folder, f"gin/pocket/{kind}.gin", *ONE, *bindings)


def states(folder):
    return [path for path in folder.glob("work/**/state/*") if path.name.isdigit()]


@pytest.mark.parametrize(
    ("kind", "task", "name"),
    [
        ("prompt_experts", NAMES[0], f"prompt_experts/{NAMES[0]}"),
        ("dataset_experts", "pocket_kinds", "dataset_experts/pocket_kinds"),
        ("multitask", "pocket_kinds", "multitask"),
    ],
)
def test_an_infinite_last_update_is_told_and_no_expert_saved(
    base, tmp_path, kind, task, name
):
    tasks = f"MIXTURE_OR_TASK_NAME = '{task}'"
    decays = [DECAYS] if kind == "prompt_experts" else []
    with pytest.raises(errors.TrainingError) as caught:
        start(tmp_path, base, kind, tasks, TOO_FAST, *decays)
    assert "the update of step 1 of expert" in str(caught.value)
    assert "Last good checkpoint: none was saved" in str(caught.value)
    assert not (tmp_path / name).exists()
    assert not states(tmp_path)
    start(tmp_path, base, kind, tasks, SLOWER, *decays)
    assert (tmp_path / name / "manifest.json").is_file()


WILD = """
from __gin__ import dynamic_registration

include "gin/pocket/prompt_experts.gin"

from elm_jax.runs import expert_settings
from elm_jax.runs import train

wild/expert_settings.ExpertSettings.learning_rate = 3.4e38
train.Train.per_expert = {"*_tell": @wild/expert_settings.ExpertSettings()}
"""


def test_an_infinite_last_update_in_a_fleet_is_told_and_the_others_land(base, tmp_path):
    gin_file = fleets.prepare(tmp_path, base, WILD)
    with pytest.raises(errors.TrainingError, match="1 of 2 experts failed") as caught:
        named = f"MIXTURE_OR_TASK_NAME = {NAMES}"
        fleets.start(tmp_path, gin_file, named, *ONE, DECAYS)
    assert "the update of step 1 of expert pocket_notes_tell" in str(caught.value)
    landed = [path.name for path in (tmp_path / "prompt_experts").iterdir()]
    assert landed == ["pocket_kinds_which_is"]
    assert not states(tmp_path)


def test_a_rate_that_is_infinite_in_float32_is_refused_before_anything(tmp_path):
    with pytest.raises(errors.ConfigError, match="learning_rate = 1e\\+39"):
        fleets.start(tmp_path, "gin/pocket/prompt_experts.gin", "LEARNING_RATE = 1e39")
    assert not list(tmp_path.iterdir())
