"""What comparing tensors adds to loading a base; prints one JSON line.

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
        before, cpu_before = time.perf_counter(), time.process_time()
        params, info = experts.load_expert(folder)
        load, cpu = time.perf_counter() - before, time.process_time() - cpu_before
        before, cpu_before = time.perf_counter(), time.process_time()
        digests.check(params, info, folder)
        check = time.perf_counter() - before
        check_cpu = time.process_time() - cpu_before
    row = {
        "benchmark": "verify",
        "bytes": trees.count_bytes(params),
        "load_secs": round(load - check, 3),
        "check_secs": round(check, 3),
        "check_over_load": round(check / (load - check), 4),
        "check_cpu_over_load_cpu": round(check_cpu / (cpu - check_cpu), 4),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
