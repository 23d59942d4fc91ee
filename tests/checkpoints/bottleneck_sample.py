"""Bottleneck experts of the small T5 of `peft_sample`, drawn by NumPy."""

import dataclasses
import pathlib

import jax
import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import (
    adapterhub_folders,
    experts,
    manifest,
    torch_bottleneck,
)
from elm_jax.model import t5
from elm_jax.peft import bottleneck, expert_parts, points
from elm_jax.runs import bases
from tests.checkpoints import peft_sample

FOLDER = pathlib.Path(__file__).with_name("torch_golden")
SHAPES = peft_sample.shapes()
# The adapters, and the parts that the expert trains.
CASES = {
    "paper": (bottleneck.Bottleneck(reduction_factor=4), "adapters_and_norms"),
    "parallel": (
        bottleneck.Bottleneck(
            reduction_factor=2,
            parallel=True,
            activation="silu",
            points=points.SUB_LAYERS,
        ),
        "adapters",
    ),
    "sum": (
        bottleneck.BottleneckSum(
            reduction_factor=8, count=3, activation="tanh", points=("decoder/mlp",)
        ),
        "adapters_and_norms",
    ),
}


def draw(spec, parts):
    """Returns an expert's parameters, float32."""
    shapes = t5.param_shapes(bases.build_model(peft_sample.CONFIG, spec))
    pattern = expert_parts.PARTS[parts]
    shapes = trees.flatten(expert_parts.part(shapes, pattern, of="the sample"))
    rng = np.random.default_rng(2)
    drawn = {}
    for name in sorted(shapes):
        values = rng.normal(size=shapes[name].shape, scale=0.3)
        values = np.exp(values) if name.endswith("scale") else values
        drawn[name] = values.astype(np.float32)
    return trees.unflatten(drawn)


def logits(spec, params):
    """Returns our logits of the sample's tokens, float32 [2, 4, 64]."""
    model = bases.build_model(peft_sample.CONFIG, spec)
    whole = trees.replace(peft_sample.base(SHAPES), params)
    tokens = (peft_sample.INPUTS, peft_sample.TARGETS)
    return np.asarray(jax.jit(model.apply)({"params": whole}, *tokens))


def save(folder, base, case):
    """Saves a case as an expert of a base in another folder."""
    spec, parts = CASES[case]
    info = manifest.Manifest(
        name=folder.name,
        kind="prompt",
        base_name="base",
        base_fingerprint=bases.read_fingerprint(base),
        model=dataclasses.asdict(peft_sample.CONFIG),
        adapter=bases.describe(spec),
        trainable_pattern=expert_parts.PARTS[parts],
        tasks=("a_task",),
    )
    experts.save_expert(folder, draw(spec, parts), info)


def export(case, folder):
    """Writes a case for transformers."""
    spec, parts = CASES[case]
    torch_bottleneck.save(
        folder,
        dataclasses.asdict(spec),
        draw(spec, parts),
        model=dataclasses.asdict(peft_sample.CONFIG),
        facts={"name": case, "base_name": "base", "base_model": "google/t5"},
    )
    return folder


def export_to_hub(case, folder):
    """Writes a case for AdapterHub's `adapters`."""
    spec, parts = CASES[case]
    adapterhub_folders.save(
        folder, dataclasses.asdict(spec), draw(spec, parts), base=SHAPES, name=case
    )
    return folder
