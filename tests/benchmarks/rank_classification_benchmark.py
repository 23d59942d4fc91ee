"""Speed of scoring answer choices, against encoding per choice; one JSON line.

Usage: python tests/benchmarks/rank_classification_benchmark.py [--tiny]

T5 1.1 of 10 M parameters, 256 questions with 4 choices, inputs 256, choices 16,
every position filled, float32. Both ways take turns on the same batches.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

import numpy as np

from elm_jax.model import config, scoring, t5

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.model import naive_scores  # noqa: E402 - run as a program, too

SHAPE = config.T5Config(
    vocab_size=1024,
    emb_dim=256,
    num_heads=4,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=4,
    num_decoder_layers=4,
)
TINY_SHAPE = dataclasses.replace(
    SHAPE, vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32
)
NUM_CHOICES = 4


def make_batches(vocab_size, *, num_questions, batch_size, inputs_length, length):
    rng = np.random.default_rng(0)

    def tokens(*shape):
        return rng.integers(2, vocab_size, shape).astype(np.int32)

    return [
        (
            tokens(batch_size, inputs_length),
            tokens(batch_size, NUM_CHOICES, length),
            np.ones((batch_size, NUM_CHOICES), bool),
        )
        for _ in range(num_questions // batch_size)
    ]


def secs_of(score, params, batches):
    before = time.perf_counter()
    for batch in batches:
        score(params, *batch).block_until_ready()
    return time.perf_counter() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a model of no size")
    parser.add_argument("--batch_size", type=int, default=16, help="questions at once")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way")
    parser.add_argument("--scan_unroll", type=int, default=1, help="of the model")
    args = parser.parse_args()
    num_questions = 2 * args.batch_size if args.tiny else 256
    shape = TINY_SHAPE if args.tiny else SHAPE
    shape = dataclasses.replace(shape, scan_unroll=args.scan_unroll)
    model = t5.T5(shape)
    params = t5.init_params(model, seed=0)
    batches = make_batches(
        shape.vocab_size,
        num_questions=num_questions,
        batch_size=args.batch_size,
        inputs_length=8 if args.tiny else 256,
        length=4 if args.tiny else 16,
    )
    ways = {
        "once": scoring.make_score_fn(model),
        "naive": naive_scores.make_score_fn(model),
    }
    scores = {name: np.asarray(way(params, *batches[0])) for name, way in ways.items()}
    times = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            times[name].append(secs_of(way, params, batches))
    best = {name: min(each) for name, each in times.items()}
    difference = np.abs(scores["once"] - scores["naive"]).max()
    row = {
        "benchmark": "rank_classification",
        "num_questions": num_questions,
        "num_choices": NUM_CHOICES,
        "batch_size": args.batch_size,
        "questions_per_sec": round(num_questions / best["once"], 2),
        "naive_questions_per_sec": round(num_questions / best["naive"], 2),
        "once_over_naive": round(best["naive"] / best["once"], 2),
        "largest_relative_difference": float(
            difference / np.abs(scores["naive"]).max()
        ),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
