"""Trainings of several experts, each by a gin file of its own."""

import json

from elm_jax import trees
from elm_jax.checkpoints import experts
from elm_jax.cli import gin_flags
from elm_jax.runs import train

TASKS = (
    "pocket_kinds_which_is",
    "pocket_notes_tell",
    "pocket_reviews_good_or_bad",
)
KEEP, ALONE = "options.Saving.keep_every_steps = 2", "options.Fleet.size = 0"
LISTED = "options.Results.library_dir = '{MODEL_DIR}/library'"
NAMED = (f"MIXTURE_OR_TASK_NAME = {TASKS}",)
FEW = ("TRAIN_STEPS = 6", "BATCH_SIZE = 8", "options.Batching.num_shapes = 2")
OFTEN = ("options.Metrics.every_steps = 1", "options.Saving.every_steps = 2")
# What a user's own gin file says about experts that need something else.
PER_EXPERT = """
from __gin__ import dynamic_registration

include "gin/pocket/prompt_experts.gin"

from elm_jax.runs import expert_settings
from elm_jax.runs import train

short/expert_settings.ExpertSettings:
  train_steps = 4
  learning_rate = 3e-3
  warmup_steps = 2

other/expert_settings.ExpertSettings:
  random_seed = 7
  max_examples = 40

train.Train.per_expert = {
    "*_tell": @short/expert_settings.ExpertSettings(),
    "pocket_kinds_*": @other/expert_settings.ExpertSettings(),
}
"""
WILD = """
wild/expert_settings.ExpertSettings.learning_rate = 1e30
train.Train.per_expert = {
    "*_tell": @short/expert_settings.ExpertSettings(),
    "pocket_kinds_*": @other/expert_settings.ExpertSettings(),
    "*_good_or_bad": @wild/expert_settings.ExpertSettings(),
}
"""


def start(folder, gin_file, *bindings):
    run, bound, operative = gin_flags.build_run(
        (train.Train,),
        gin_files=[gin_file],
        bindings=[f"MODEL_DIR = '{folder}'", *bindings],
    )
    run.start(config=bound, operative_config=operative)


def prepare(folder, base, text):
    for name in ("base", "cache"):
        if not (folder / name).exists():
            (folder / name).symlink_to(base / name)
    gin_file = folder / "experts.gin"
    gin_file.write_text(text)
    return str(gin_file)


def train_in(folder, base, *bindings, text=PER_EXPERT):
    gin_file = prepare(folder, base, text)
    start(folder, gin_file, *NAMED, *FEW, *OFTEN, *bindings)


def metrics_of(folder, name):
    path = folder / "work" / "prompt_experts" / name / "metrics.jsonl"
    return path.read_text().splitlines()


def fingerprints(folder):
    return {
        path.name: trees.fingerprint(experts.load_expert(path)[0])
        for path in sorted((folder / "prompt_experts").iterdir())
    }


def rows_of(folder, name):
    lines = metrics_of(folder, name)
    return [json.loads(line) for line in lines]
