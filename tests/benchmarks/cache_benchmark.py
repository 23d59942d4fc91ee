"""Seconds to build, to open and to read token caches; prints one JSON line.

Usage: python tests/benchmarks/cache_benchmark.py
Caches all splits of the pocket suite's training tasks in a temporary folder. The
import of SeqIO, paid once per process that builds, is timed apart.
"""

import json
import pathlib
import sys
import tempfile
import time

from elm_jax.data import batches, cache, packing, shapes, tasks, tensorflow_imports
from tasks import pocket

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.data import batch_tokens  # noqa: E402 - run as a program, too

FEATURES = tasks.Features(inputs_length=128, targets_length=32)
BATCH_SIZE, NUM_BATCHES = 16, 500


def timed(fn):
    before = time.perf_counter()
    result = fn()
    return result, time.perf_counter() - before


def main():
    names = [task.name for task in tasks.registry.select(lambda t: t.role == "train")]
    pairs = [(n, s) for n in names for s in ("train", "validation", "test")]
    _, import_secs = timed(tensorflow_imports.import_seqio)
    with tempfile.TemporaryDirectory() as folder:
        data_options = tasks.DataOptions(cache_dir=folder)

        def open_all():
            return [
                cache.open_cache(
                    *pair,
                    vocabulary=pocket.VOCABULARY,
                    features=FEATURES,
                    data_options=data_options,
                )
                for pair in pairs
            ]

        built, build_secs = timed(open_all)
        opened, open_secs = timed(open_all)
        train = [dataset for dataset in opened if dataset.split == "train"]
        options = {"batch_size": BATCH_SIZE, "seed": 0}
        sources = {
            f"buckets_{n}": batches.Batches(train, num_shapes=n, **options)
            for n in (1, 4, 8, 16)
        }
        sources["packed"] = packing.PackedBatches(
            train, row=shapes.Lengths(128, 32), **options
        )
        _, batch_secs = timed(
            lambda: [sources["buckets_8"].batch(i) for i in range(NUM_BATCHES)]
        )
        shares = {name: batch_tokens.real_share(s) for name, s in sources.items()}
    print(
        json.dumps(
            {
                "benchmark": "cache",
                "num_caches": len(built),
                "num_examples": sum(map(len, built)),
                "import_seqio_secs": round(import_secs, 2),
                "build_secs_per_cache": round(build_secs / len(pairs), 3),
                "open_secs_per_cache": round(open_secs / len(pairs), 5),
                "batches_per_sec": round(NUM_BATCHES / batch_secs),
                "real_token_share": {k: round(v, 3) for k, v in shares.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
