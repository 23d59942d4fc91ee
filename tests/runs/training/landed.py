"""A training of two experts of an untrained base."""

import dataclasses

from elm_jax import trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.cli import gin_flags
from elm_jax.model import config, t5
from elm_jax.runs import train
from tests.peft.sample import random_params

TASKS = ("pocket_kinds_which_is", "pocket_notes_tell")
SHORT, LONG = TASKS[1], TASKS[0]
SHAPE = config.T5Config(
    vocab_size=576,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
PER_EXPERT = """
from __gin__ import dynamic_registration
include "gin/pocket/prompt_experts.gin"
from elm_jax.runs import expert_settings
from elm_jax.runs import train
short/expert_settings.ExpertSettings.train_steps = 3
train.Train.per_expert = {"*_tell": @short/expert_settings.ExpertSettings()}
"""


def make_folder(path):
    """Makes a work folder with a base, untrained."""
    params = random_params(t5.T5(SHAPE))
    facts = facts_of("base", kind="base", fingerprint=trees.fingerprint(params))
    experts.save_expert(path / "base", params, facts)
    (path / "experts.gin").write_text(PER_EXPERT)
    return path


def facts_of(name, *, kind="prompt", fingerprint="f" * 8, training=None):
    return manifest.Manifest(
        name=name,
        kind=kind,
        base_name="base",
        base_fingerprint=fingerprint,
        model=dataclasses.asdict(SHAPE),
        trainable_pattern="norm",
        tasks=(name,),
        training=training or {},
    )


def make_run(folder, *bindings):
    built, _, _ = gin_flags.build_run(
        [train.Train],
        gin_files=[str(folder / "experts.gin")],
        bindings=[
            f"MODEL_DIR = '{folder}'",
            f"MIXTURE_OR_TASK_NAME = {TASKS}",
            "TRAIN_STEPS = 5",
            "options.Results.library_dir = '{MODEL_DIR}/library'",
            *bindings,
        ],
    )
    return built
