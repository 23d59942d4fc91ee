"""A library of prompt experts of T5-XL that hold nothing but zeros, for plans."""

import dataclasses
import shutil

import ml_dtypes
import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.library import catalogue, index
from elm_jax.model import t5
from elm_jax.peft import bottleneck, expert_parts
from elm_jax.runs import bases
from tests.runs.training.xl import XL

SPEC = bottleneck.Bottleneck(reduction_factor=32)  # the paper's
_FINGERPRINT = "0123456789abcdef"


class Embedder:
    """Gives every text the same key."""

    name = "minilm-0000000000000000-256"

    def embed(self, texts):
        return np.full((len(texts), 4), 0.5, np.float32)


def save_base(folder):
    """Writes the manifest of a base, and no parameter."""
    info = manifest.Manifest(
        name="base",
        kind="base",
        base_name="base",
        base_fingerprint=_FINGERPRINT,
        params_fingerprint=_FINGERPRINT,
        model=bases.describe(XL) or {},
        trainable_pattern=".*",
    )
    (folder / "base").mkdir(parents=True)
    manifest.write_manifest(folder / "base", info)


def make_library(folder, number):
    """Writes a base and so many experts of it, and lists these in a library."""
    save_base(folder)
    whole = t5.param_shapes(t5.T5(XL, SPEC.adapter_fn(XL.emb_dim)))
    part = expert_parts.part(whole, expert_parts.PROMPT_EXPERT, of="an expert")
    zeros = {
        name: np.zeros(leaf.shape, ml_dtypes.bfloat16)
        for name, leaf in trees.flatten(part).items()
    }
    info = manifest.Manifest(
        name="expert_0",
        kind="prompt",
        base_name="base",
        base_fingerprint=_FINGERPRINT,
        model=bases.describe(XL) or {},
        trainable_pattern=expert_parts.PROMPT_EXPERT,
        adapter=bases.describe(SPEC),
        tasks=("rotten_tomatoes_Reviewer_Enjoyment",),
        steps=1,
    )
    first = folder / "prompt_experts" / info.name
    experts.save_expert(first, trees.unflatten(zeros), info)
    saved = manifest.read_manifest(first)
    listed = catalogue.Catalogue(folder / "library")
    for place in range(number):
        name = f"expert_{place}"
        where = first.with_name(name)
        if place:
            shutil.copytree(first, where)
            (where / "manifest.json").unlink()
            manifest.write_manifest(where, dataclasses.replace(saved, name=name))
        listed.add(where)
    index.extend(
        folder / "library",
        [
            index.NewExpert(
                name, ("a text",), (index.RowsUsed(info.tasks[0], "train", (place,)),)
            )
            for place, name in enumerate(listed.experts())
        ],
        embedder=Embedder(),
        settings=index.IndexSettings(Embedder.name),
    )
