"""Memory and bytes/s of importing a T5 1.1 XL in bfloat16; prints one JSON line.

Usage: python tests/benchmarks/convert_benchmark.py [--tiny] [--folder=FOLDER]
Makes a synthetic checkpoint as Hugging Face shards them (5.7 GB; needs 18 GB free),
imports it in a process of its own, and removes both. `peak` is that process's largest
resident memory above a bare interpreter's; `bound` is three times the largest tensor
plus 1 GiB. Beside the time of importing, that of copying the same files.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import huggingface_export, tensors
from elm_jax.model import config, t5

XL = config.T5Config(
    vocab_size=32128,
    emb_dim=2048,
    num_heads=32,
    head_dim=64,
    mlp_dim=5120,
    num_encoder_layers=24,
    num_decoder_layers=24,
)
TINY = dataclasses.replace(
    XL, emb_dim=64, num_heads=2, mlp_dim=128, num_encoder_layers=2, num_decoder_layers=2
)
CONVERT = """
import sys, time
from elm_jax.runs import convert
start = time.perf_counter()
convert.ImportHuggingFace(
    model_dir=sys.argv[2], huggingface_path=sys.argv[1], base_name="base"
).run()
print("secs", time.perf_counter() - start)
"""
PEAK = "print([n for n in open('/proc/self/status') if 'VmHWM' in n][0].split()[1])"


def leaves_of(shapes):
    """Leaves of one layer a part, whose values are cheap to make."""
    dtype = np.dtype(ml_dtypes.bfloat16)
    noise = np.random.default_rng(0).normal(size=2**22).astype(dtype)

    def blocks(shape, rows):
        for _ in range(shape[0] // rows):
            yield np.resize(noise, (rows, *shape[1:]))

    leaves = {}
    for name, leaf in trees.flatten(shapes).items():
        rows = 1 if "/layers/" in name else leaf.shape[0]
        leaves[name] = tensors.Leaf(
            leaf.shape, dtype, rows, lambda s=leaf.shape, r=rows: blocks(s, r)
        )
    return leaves


def run(code, *arguments):
    """Returns what a process prints last but one, and its peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{PEAK}", *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = done.stdout.splitlines()
    return lines[:-1], int(lines[-1]) * 1024


def measure(folder, shape, leaves):
    source = folder / "source"
    huggingface_export.save(
        source,
        leaves,
        dataclasses.asdict(shape),
        dtype=np.dtype(ml_dtypes.bfloat16),
        max_shard_bytes=10**9,
        on_bytes=lambda done: None,
    )
    num_bytes = sum(path.stat().st_size for path in source.iterdir())
    _, bare = run("")
    lines, peak = run(CONVERT, source, folder / "out")
    secs = float(lines[-1].split()[1])
    shutil.rmtree(folder / "out")
    before = time.perf_counter()
    shutil.copytree(source, folder / "copy")
    copy_secs = time.perf_counter() - before
    shapes = tensors.plain_shapes(leaves).values()
    largest = max(int(np.prod(leaf.shape)) for leaf in shapes) * 2
    return {
        "benchmark": "convert",
        "num_params": trees.count_params(leaves),
        "read_bytes": num_bytes,
        "largest_tensor_bytes": largest,
        "peak_bytes": peak - bare,
        "bound_bytes": 3 * largest + 2**30,
        "peak_over_bound": round((peak - bare) / (3 * largest + 2**30), 3),
        "secs": round(secs, 2),
        "bytes_per_sec": round(num_bytes / secs),
        "import_over_copy": round(secs / copy_secs, 2),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    shape = TINY if arguments.tiny else XL
    leaves = leaves_of(t5.param_shapes(t5.T5(shape)))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        needed = 3 * trees.count_bytes(leaves)
        free = shutil.disk_usage(name).free
        if free < needed:
            sys.exit(f"{name}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed")
        print(json.dumps(measure(pathlib.Path(name), shape, leaves)))


if __name__ == "__main__":
    main()
