"""Memory of a T5 1.1 XL base that comes from disk to its device; prints JSON lines.

Usage: python tests/benchmarks/loading_benchmark.py [--tiny] [--folder=FOLDER]
Makes a synthetic base in float32 (11.4 GB; needs 12 GB free and 9 GB of memory). Places
it in processes of their own as a training of prompt experts starts, with the state of
one, and as an evaluation of the base does, and removes it. Here a CPU is the device, so
memory of the device is the host's, too: `placed` bytes lie on it in the end, `peak` is
the process's largest resident memory above that before, `beside` is what the host
held beside the device: too little by what was placed only after the peak. Needs
/proc/self/status, as Linux has it.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from elm_jax import trees  # noqa: E402 - run as a program, too
from elm_jax.checkpoints import manifest, streaming, tensors  # noqa: E402
from elm_jax.model import precision, t5  # noqa: E402
from elm_jax.runs import bases  # noqa: E402
from tests.benchmarks import planner_cases  # noqa: E402

XL = planner_cases.XL
TINY = dataclasses.replace(
    XL, emb_dim=512, mlp_dim=2048, num_encoder_layers=4, num_decoder_layers=4
)
START = """
import pathlib, sys
import jax
from elm_jax import trees
from elm_jax.model import t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.peft import bottleneck, expert_parts
from elm_jax.runs import bases, loaded, placement, scorer
from elm_jax.runs.training import shared_model, spec
from elm_jax.training import optimizers

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if name in line)

# What loading imports and compiles is there before it is measured.
jax.block_until_ready(jax.device_put(0.0))
base = loaded.Base.open(pathlib.Path(sys.argv[1]))
"""
FINISH = """
leaves = {id(leaf): leaf for leaf in jax.tree.leaves(placed)}.values()
print(before, status("VmHWM"), sum(leaf.nbytes for leaf in leaves))
"""
TRAINING = """
import types
network = bases.build_model(base.config, bottleneck.Bottleneck(reduction_factor=32))
asked = types.SimpleNamespace(
    trainable_pattern=expert_parts.PROMPT_EXPERT,
    base_dir=base.folder,
    optimizer=optimizers.AdamW(),
    train_steps=1000,
)
mesh = meshes.make_mesh()
before = status("VmRSS")
model = shared_model.SharedModel(asked, model=network, mesh=mesh, axis_rules="data")
placed = model.frozen, model.initial_state(0)
"""
EVALUATION = """
scores = scorer.Scorer(base, None, batch_size=1, where=placement.Placement())
before = status("VmRSS")
placed = scores.place(base.params)
"""


def save_base(folder, shape):
    """Saves a base of noise, a layer at a time; returns its leaves' shapes."""
    noise = np.random.default_rng(0).normal(size=2**20).astype(np.float32)
    shapes = trees.flatten(t5.param_shapes(t5.T5(shape)))
    leaves = {}
    for name, leaf in shapes.items():
        rows = 1 if "/layers/" in name else leaf.shape[0]

        def blocks(shape=leaf.shape, rows=rows):
            for _ in range(shape[0] // rows):
                yield np.resize(noise, (rows, *shape[1:]))

        leaves[name] = tensors.Leaf(leaf.shape, np.dtype(np.float32), rows, blocks)
    streaming.save_base(
        folder,
        leaves,
        lambda fingerprint: manifest.Manifest(
            name="base",
            kind="base",
            base_name="base",
            base_fingerprint=fingerprint,
            model=bases.describe(shape) or {},
            trainable_pattern=".*",
        ),
        dtype=np.dtype(np.float32),
        on_bytes=lambda done: None,
    )
    return shapes


def measure(what, code, folder):
    """Returns what the process that runs some code measured."""
    done = subprocess.run(
        [sys.executable, "-c", START + code + FINISH, str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    before, peak, placed = map(int, done.stdout.split()[-3:])
    return {
        "what": what,
        "placed": placed,
        "peak": peak - before,
        "beside": peak - before - placed,
    }


def main():
    """Measures both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    args = parser.parse_args()
    shape = TINY if args.tiny else XL
    folder = pathlib.Path(tempfile.mkdtemp(dir=args.folder), "base")
    try:
        shapes = save_base(folder, shape)
        copies = precision.in_compute_dtype(shape, trees.unflatten(shapes))
        sizes = [leaf.size * 4 for leaf in shapes.values()]
        sizes_on_disk = {"bytes_on_disk": sum(sizes), "largest": max(sizes)}
        sizes_on_disk |= {"copy": trees.count_bytes(copies)}
        print(json.dumps(sizes_on_disk), flush=True)  # noqa: T201
        for what, code in (("training", TRAINING), ("evaluation", EVALUATION)):
            print(json.dumps(measure(what, code, folder)), flush=True)  # noqa: T201
    finally:
        shutil.rmtree(folder.parent)


if __name__ == "__main__":
    sys.exit(main())
