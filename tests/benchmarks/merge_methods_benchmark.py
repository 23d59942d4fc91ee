"""What merging prompt experts of XL takes by method; prints one JSON line for each.

    OPENBLAS_NUM_THREADS=1 python -m tests.benchmarks.merge_methods_benchmark

296 experts have bottleneck adapters of width 64 in a model of width 2048, two in each
of 24 + 24 layers. Layers are merged one after another and cost the same, so one adapter
is timed and multiplied by 96, after another one, in whose memory it works as all later
ones do. Seconds are the processor's, of all threads; `wall_minutes` are by the clock:
less where several threads work, and more where much else runs. `numpy` is
the ratio to one thin SVD by numpy of each matrix. Reading is no part of it. The peak of
the memory is that since the benchmark began, with one adapter of all experts.
"""

import argparse
import json
import os
import pathlib
import time

import numpy as np

from elm_jax.merging import methods
from elm_jax.peft import effects

LAYERS = 96
PLACE = "encoder/layers_0/mlp_adapter"


def simulated(*, num_experts, emb_dim, width, seed):
    """Experts of one adapter: what they have in common, and their own."""
    rng = np.random.default_rng(seed)
    shapes = {
        "down/kernel": (emb_dim, width),
        "down/bias": (width,),
        "up/kernel": (width, emb_dim),
        "up/bias": (emb_dim,),
    }
    start = {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}
    return [
        {
            f"{PLACE}/{name}": 0.01 * leaf
            + 0.003 * rng.standard_normal(leaf.shape, np.float32)
            for name, leaf in start.items()
        }
        for _ in range(num_experts)
    ]


def by_numpy(experts, *, num_experts=20):
    """Seconds of a thin SVD of all matrices, from some of them."""
    begun = time.process_time()
    for expert in experts[:num_experts]:
        for name in ("down/kernel", "up/kernel"):
            np.linalg.svd(expert[f"{PLACE}/{name}"].astype(float), full_matrices=False)
    return (time.process_time() - begun) * len(experts) / num_experts


def peak_kb():
    """The greatest memory of this process so far; only Linux tells."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--methods", nargs="+", default=["tsv_merge", "iso_c", "iso_cts"]
    )
    parser.add_argument("--num_experts", type=int, default=296)
    parser.add_argument("--emb_dim", type=int, default=2048)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    sizes = {n: getattr(options, n) for n in ("num_experts", "emb_dim", "width")}
    experts = simulated(**sizes, seed=0)
    of_numpy = by_numpy(experts)
    for name in options.methods:
        marks = [f"{number:04d}" for number in range(len(experts))]
        base = {f"{PLACE}/up/bias": np.zeros(options.emb_dim, np.float32)}
        beside = effects.beside(experts[0])
        for _ in range(2):  # the first takes memory from the system
            begun, started = time.process_time(), time.monotonic()
            methods.of(name).merge(experts, base=base, beside=beside, marks=marks)
            seconds = time.process_time() - begun
            wall_seconds = time.monotonic() - started
        row = {
            "benchmark": "merge_methods",
            "method": name,
            **sizes,
            "cpu_seconds_per_adapter": round(seconds, 2),
            "cpu_minutes": round(seconds * LAYERS / 60, 2),
            "wall_minutes": round(wall_seconds * LAYERS / 60, 2),
            "numpy": round(seconds / of_numpy, 2),
            "peak_gb": round(peak_kb() / 1e6, 2),
            "load": [round(load, 1) for load in os.getloadavg()],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
