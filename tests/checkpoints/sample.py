"""A small base, an expert of it and their manifests."""

import contextlib
import json
import pathlib
import resource
import subprocess
import sys

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import manifest, tensors

PATTERN = "adapter|layer_norm"
MODEL = {"vocab_size": 7, "emb_dim": 4}


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "token_embedder/embedding": (7, 4),
        "encoder/layers/mlp/wi_0/kernel": (2, 4, 8),
        "encoder/layers/mlp_adapter/down/kernel": (2, 4, 2),
        "encoder/layers/pre_mlp_layer_norm/scale": (2, 4),
    }
    leaves = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return trees.unflatten(leaves)


def make_expert(seed=0):
    return trees.split(make_params(seed), PATTERN)[0]


def make_manifest(**changes):
    facts = {
        "name": "dream_answer",
        "kind": "prompt",
        "base_name": "tiny",
        "base_fingerprint": trees.fingerprint(make_params()),
        "model": MODEL,
        "trainable_pattern": PATTERN,
        "adapter": {"kind": "bottleneck", "reduction_factor": 2},
        "tasks": ("dream_answer",),
        "data": {"dream_answer": {"num_examples": 5, "fingerprint": "00ff"}},
        "steps": 10,
        "metrics": {"loss": 0.5},
        "versions": manifest.installed_versions(),
        "operative_config": "MODEL_DIR = '/x'\n",
    }
    return manifest.Manifest(**(facts | changes))


def edit_manifest(folder, **changes):
    """Puts other fields into a manifest, without its digest, as a user may."""
    path = folder / manifest.FILE_NAME
    content = json.loads(path.read_text()) | changes
    content.pop("digest", None)
    path.write_text(json.dumps(content))


def replace_in_manifest(folder, old, new):
    """Puts another text for each of some text in a manifest, without its digest."""
    edit_manifest(folder)
    path = folder / manifest.FILE_NAME
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def rename(folder, name):
    """Puts another name into an expert's manifest, whatever it is."""
    edit_manifest(folder, name=name)


@contextlib.contextmanager
def full_disk(at_bytes):
    """Files can grow to so many bytes only: a disk that fills up, near enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run_script(code, *arguments):
    """Runs code in a process of its own; returns its lines of output.

    For reads and writes that fail half-way: Orbax then drops coroutines, whose
    warnings would show up in whatever test runs next.
    """
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=300,  # a write that fails must not hang
    ).stdout.splitlines()


def change(path, changes):
    """Puts other values into a JSON file, or other text in its place."""
    if isinstance(changes, dict):
        changes = json.dumps(json.loads(path.read_text()) | changes)
    path.write_bytes(changes if isinstance(changes, bytes) else changes.encode())


def leaves_of(tree):
    """Returns the leaves of a tree in memory."""
    leaves = {}
    for name, leaf in trees.flatten(tree).items():
        array = np.asarray(leaf)
        leaves[name] = tensors.whole(
            tensors.Tensor(array.shape, array.dtype, lambda a=array: a)
        )
    return leaves
