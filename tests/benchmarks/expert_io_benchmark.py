"""Seconds to save and to load one small prompt expert; prints one JSON line.

Usage: python tests/benchmarks/expert_io_benchmark.py
Beside them, the same tensors through numpy.savez, as the floor of this disk.
"""

import json
import pathlib
import statistics
import tempfile
import time

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import experts, manifest

NUM_LAYERS, EMB_DIM, BOTTLENECK, REPEATS = 4, 256, 8, 10
PLACES = (
    *("encoder/layers/attention", "encoder/layers/mlp"),
    *("decoder/layers/self_attention", "decoder/layers/mlp"),
)


def make_expert():
    rng = np.random.default_rng(0)
    leaves = {}
    for place in PLACES:
        adapter = {
            f"{place}_adapter/down/kernel": (NUM_LAYERS, EMB_DIM, BOTTLENECK),
            f"{place}_adapter/down/bias": (NUM_LAYERS, BOTTLENECK),
            f"{place}_adapter/up/kernel": (NUM_LAYERS, BOTTLENECK, EMB_DIM),
            f"{place}_adapter/up/bias": (NUM_LAYERS, EMB_DIM),
            f"{place}_layer_norm/scale": (NUM_LAYERS, EMB_DIM),
        }
        for name, shape in adapter.items():
            leaves[name] = rng.normal(size=shape).astype(np.float32)
    return trees.unflatten(leaves)


def median_secs(fn):
    times = []
    for n in range(REPEATS):
        before = time.perf_counter()
        fn(n)
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def main():
    params = make_expert()
    facts = manifest.Manifest(
        name="benchmark",
        kind="prompt",
        base_name="none",
        base_fingerprint="0" * 16,
        model={},
        trainable_pattern="adapter|layer_norm",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        save = median_secs(
            lambda n: experts.save_expert(folder / str(n), params, facts)
        )
        load = median_secs(lambda n: experts.load_expert(folder / str(n)))
        leaves = trees.flatten(params)
        floor = median_secs(lambda n: np.savez(folder / f"{n}.npz", **leaves))
    row = {
        "benchmark": "expert_io",
        "num_params": trees.count_params(params),
        "num_tensors": len(leaves),
        "save_secs": round(save, 4),
        "load_secs": round(load, 4),
        "savez_secs": round(floor, 4),
        "save_over_savez": round(save / floor, 1),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
