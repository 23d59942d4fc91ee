"""A small T5 with weights drawn by NumPy, for adapters that PEFT wrote."""

import functools
import pathlib

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import huggingface, layers, tensors
from elm_jax.model import config, t5

FOLDER = pathlib.Path(__file__).with_name("peft_golden")
CONFIG = config.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=6,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=3,
)
INPUTS = np.array([[5, 9, 33, 12, 7, 1], [8, 21, 4, 1, 0, 0]])
TARGETS = np.array([[0, 11, 12, 13], [0, 40, 41, 42]])


@functools.cache
def shapes():
    """Returns shapes and dtypes of the base's parameters."""
    return t5.param_shapes(t5.T5(CONFIG))


def weights(shapes):
    """Draws the base's tensors from their shapes by Hugging Face's names."""
    rng = np.random.default_rng(0)
    drawn = {}
    for name in sorted(shapes):
        values = rng.normal(size=shapes[name])
        if "layer_norm" in name:
            values = np.exp(0.2 * values)
        elif "shared" not in name and "relative" not in name:
            values = values / shapes[name][-1] ** 0.5
        drawn[name] = values.astype(np.float32)
    return drawn


def hub_tensors(shapes):
    """Returns the base by Hugging Face's names; `shapes` are those of our tree."""
    shapes_there = {}
    for name, leaf in tensors.plain_shapes(trees.flatten(shapes)).items():
        place = huggingface.place(name)
        shapes_there[place.name] = (
            leaf.shape[::-1] if place.is_transposed else leaf.shape
        )
    return weights(shapes_there)


def base(shapes):
    """Returns the base by our names; `shapes` are those of its tree."""
    plain = {}
    for name, array in hub_tensors(shapes).items():
        ours = huggingface.plain_name(name)
        plain[ours] = array.T if huggingface.place(ours).is_transposed else array
    return layers.stack_layers(trees.unflatten(plain))
