"""A small T5 as Hugging Face stores it, written by safetensors itself."""

import json
import pathlib

import numpy as np
import safetensors.numpy

from elm_jax import trees
from elm_jax.checkpoints import huggingface, huggingface_config, tensors
from elm_jax.model import config, t5
from tests.checkpoints import sample
from tests.peft.sample import random_params

GOLDEN = pathlib.Path(__file__).with_name("huggingface_golden.json")
CONFIG = config.T5Config(
    vocab_size=11,
    emb_dim=6,
    num_heads=2,
    head_dim=4,
    mlp_dim=10,
    num_encoder_layers=2,
    num_decoder_layers=3,
)


def make_params(shape=CONFIG, seed=0):
    return random_params(t5.T5(shape), seed)


def to_theirs(params):
    """Tensors by their names; written here once more, not by the export."""
    hub_tensors = {}
    for name, array in tensors.unstack(sample.leaves_of(params)):
        place = huggingface.place(name)
        hub_tensors[place.name] = np.ascontiguousarray(
            array.T if place.is_transposed else array
        )
    return hub_tensors


def write_folder(folder, hub_tensors, shape=CONFIG, **changes):
    folder.mkdir()
    settings = huggingface_config.from_fields(vars(shape), "float32") | changes
    settings = {n: value for n, value in settings.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings))
    safetensors.numpy.save_file(hub_tensors, folder / "model.safetensors")
    return folder


def fingerprint(leaves):
    return trees.fingerprint(tensors.read_all(leaves, np.float32))
