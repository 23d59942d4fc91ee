"""Tokens per second with buckets and with packing, over padding; prints one JSON line.

Usage: python tests/benchmarks/packing_benchmark.py --data_dir=PATH, or with --tiny

All parameters of a T5 1.1 of 10 M train by Adafactor without dropout on DREAM, CoS-E
and Rotten Tomatoes as PromptSource prompts them (`real_rows.py`), inputs cut at 256.
Three ways take turns, so that ratios hold on a busy machine: every row padded to
256 / 128, length buckets, and packing; rows per batch differ so that batches have
about as many tokens. Compilations come first and do not count. `real_share` is the
share of an epoch's tokens that are not padding, `over_padded` how many times the real
tokens per second of padding. `data_wait_share` is the share of the time that a train
loop with prefetching spends waiting for batches, for buckets and for packing.
`--tiny` takes the embedded suite and a model of no size.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np

from elm_jax.data import batches, packing, prefetch, shapes, tasks
from elm_jax.model import loss, t5
from elm_jax.training import loop, optimizers, state, step

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.benchmarks import real_rows  # noqa: E402 - run as a program, too
from tests.benchmarks.train_step_benchmark import SHAPE, TINY_SHAPE  # noqa: E402
from tests.data import batch_tokens  # noqa: E402

FEATURES = tasks.Features(inputs_length=256, targets_length=128)
TINY_FEATURES = tasks.Features(inputs_length=64, targets_length=32)
NUM_SHAPES = 16


def lengths_of(datasets):
    sides = [(d.columns.inputs.lengths, d.columns.targets.lengths) for d in datasets]
    return np.concatenate([np.stack(pair, axis=1) for pair in sides])


def make_sources(datasets, features, num_tokens):
    """Returns sources of batches of about so many tokens, padding included."""
    full = shapes.Lengths(features.inputs_length, features.targets_length)
    row = packing.choose_row(lengths_of(datasets), features)
    packed_rows = max(1, round(num_tokens / sum(row)))
    packed = packing.PackedBatches(datasets, batch_size=packed_rows, row=row, seed=0)
    padded_rows = max(1, round(num_tokens / sum(full)))
    buckets_rows = max(1, round(num_tokens / (2 * lengths_of(datasets).sum(1).mean())))

    def bucketed(rows, **options):
        return batches.Batches(datasets, batch_size=rows, seed=0, **options)

    return {
        "padded": bucketed(padded_rows, shapes=[full]),
        "buckets": bucketed(buckets_rows, num_shapes=NUM_SHAPES),
        "packed": packed,
    }


class Way:
    """A training on one source of batches, step by step."""

    def __init__(self, model, source):
        self.source = source
        tx = optimizers.Adafactor(learning_rate=1e-3).make(1000)
        self.step_fn = step.make_train_step(loss.make_loss_fn(model), tx)
        self.state = state.init_state(t5.init_params(model, seed=0), tx, seed=0)
        self.secs = self.tokens = 0.0

    def compile(self):
        """Takes a step of each shape that batches have; sets the counts to zero."""
        left = set(self.source.shapes)
        for number in itertools.count():
            batch = self.source.batch(number)
            inputs, targets = (
                batch["encoder_input_tokens"],
                batch["decoder_input_tokens"],
            )
            shape = shapes.Lengths(inputs.shape[1], targets.shape[1])
            if shape in left:
                self.take(batch)
                left.remove(shape)
            if not left or number == self.source.num_batches_per_epoch:
                break
        self.secs = self.tokens = 0.0

    def take(self, batch):
        before = time.perf_counter()
        self.state, metrics = self.step_fn(self.state, {}, jax.device_put(batch))
        self.tokens += float(metrics["num_tokens"])
        self.secs += time.perf_counter() - before

    def wait_share(self, num_steps):
        """Returns the share of the time of so many steps that waits for batches."""
        start = int(self.state.step)
        with prefetch.Prefetcher(
            self.source.batch, start, stop_step=start + num_steps, put_fn=jax.device_put
        ) as ready:
            before = time.perf_counter()
            self.state = loop.train(
                self.state,
                {},
                step_fn=self.step_fn,
                batches=ready,
                num_steps=start + num_steps,
            )
            jax.block_until_ready(self.state)
            return ready.waited_secs / (time.perf_counter() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="the embedded suite")
    parser.add_argument("--data_dir", default="", help="the authors' files")
    parser.add_argument("--templates_dir", default="", help="PromptSource's templates")
    parser.add_argument("--repeats", type=int, default=24, help="turns of each way")
    args = parser.parse_args()
    features, shape = (TINY_FEATURES, TINY_SHAPE) if args.tiny else (FEATURES, SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        if args.tiny:
            datasets = real_rows.open_pocket(path, features=features)
            shape = dataclasses.replace(shape, vocab_size=576)
        else:
            datasets = real_rows.open_real(
                path,
                data_dir=args.data_dir,
                templates_dir=args.templates_dir,
                features=features,
            )
        sources = make_sources(datasets, features, 512 if args.tiny else 6144)
        ways = {name: Way(t5.T5(shape), each) for name, each in sources.items()}
        for way in ways.values():
            way.compile()
        for turn in range(args.repeats):
            for way in ways.values():
                way.take(way.source.batch(turn))
        row = {"benchmark": "packing", "num_rows": len(lengths_of(datasets))}
        padded = ways["padded"].tokens / ways["padded"].secs
        for name, way in ways.items():
            rate = way.tokens / way.secs
            row[name] = {
                "real_share": round(batch_tokens.real_share(way.source), 4),
                "real_tokens_per_sec": round(rate, 1),
                "over_padded": round(rate / padded, 2),
            }
            if name != "padded":
                share = way.wait_share(args.repeats)
                row[name]["data_wait_share"] = round(share, 4)
        row["packed"]["row"] = tuple(sources["packed"].shapes[0])
        row["buckets"]["num_shapes"] = len(sources["buckets"].shapes)
        print(json.dumps(row))


if __name__ == "__main__":
    main()
