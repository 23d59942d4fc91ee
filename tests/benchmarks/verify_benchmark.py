"""What comparing tensors adds to loading a base: with, without; prints one JSON line.

Usage: python tests/benchmarks/verify_benchmark.py [gigabytes, 3 if none is given]
"""

import json
import pathlib
import sys
import tempfile
import time

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import digests, experts, manifest

SHAPE = (24, 2048, 1024)  # of T5-XL's stacks, in part


def main():
    gigabytes = float(sys.argv[1]) if sys.argv[1:] else 3.0
    rng = np.random.default_rng(0)
    count = max(1, round(gigabytes * 1e9 / (4 * np.prod(SHAPE))))
    params = trees.unflatten(
        {f"layers/{n}": rng.standard_normal(SHAPE, np.float32) for n in range(count)}
    )
    facts = manifest.Manifest(
        name="b",
        kind="base",
        base_name="b",
        base_fingerprint=trees.fingerprint(params),
        model={},
        trainable_pattern=".*",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name, "b")
        experts.save_expert(folder, params, facts)
        del params
        wall = dict.fromkeys((False, True), float("inf"))
        cpu = dict(wall)
        for is_comparing in (False, True) * 3:  # the best counts; files are cached
            digests.compare_tensors(is_comparing)
            before, cpu_before = time.perf_counter(), time.process_time()
            params, _ = experts.load_expert(folder)
            secs, cpu_secs = time.perf_counter(), time.process_time()
            wall[is_comparing] = min(wall[is_comparing], secs - before)
            cpu[is_comparing] = min(cpu[is_comparing], cpu_secs - cpu_before)
            num_bytes = trees.count_bytes(params)
            del params
    row = {
        "benchmark": "verify",
        "bytes": num_bytes,
        "load_secs": round(wall[True], 3),
        "load_without_secs": round(wall[False], 3),
        "ratio": round(wall[True] / wall[False], 3),
        "cpu_ratio": round(cpu[True] / cpu[False], 3),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
