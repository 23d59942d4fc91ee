"""Seconds to import the model and its neighbours; prints one JSON line.

Usage: python tests/benchmarks/imports_benchmark.py [--repeats N]

Each import runs in a fresh interpreter; `jax_secs` is the part that JAX, Flax and
NumPy take alone.
"""

import argparse
import json
import pkgutil
import subprocess
import sys

import elm_jax.model
import elm_jax.partitioning
import elm_jax.peft

PROGRAM = """
import sys, time
before = time.perf_counter()
import {names}
print(time.perf_counter() - before)
print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'seqio', 'torch')])
"""


def modules_of(package):
    names = (info.name for info in pkgutil.iter_modules(package.__path__))
    return [f"{package.__name__}.{name}" for name in names]


def import_in_new_process(names):
    """Returns the seconds, and the heavy libraries that came along."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(names=", ".join(names))],
        check=True,
        capture_output=True,
        text=True,
    )
    secs, heavy = run.stdout.splitlines()
    return float(secs), heavy


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="one repeat only")
    parser.add_argument("--repeats", type=int, default=5, help="fresh interpreters")
    args = parser.parse_args()
    packages = (elm_jax.model, elm_jax.peft, elm_jax.partitioning)
    ours = [name for package in packages for name in modules_of(package)]
    repeats = range(1 if args.tiny else args.repeats)
    runs = [import_in_new_process(ours) for _ in repeats]
    jax_secs = min(
        import_in_new_process(["jax.numpy", "flax.linen", "numpy"])[0] for _ in repeats
    )
    row = {
        "benchmark": "imports",
        "num_modules": len(ours),
        "secs": round(min(secs for secs, _ in runs), 3),
        "jax_secs": round(jax_secs, 3),
        "has_tensorflow": any(heavy != "[]" for _, heavy in runs),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
