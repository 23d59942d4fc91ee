"""Speed of a training step with all parameters trained; prints one JSON line.

Usage: python tests/benchmarks/train_step_benchmark.py [--tiny] [--dtype bfloat16]

T5 1.1 of 10 M parameters, batch 16, inputs 256, targets 32, Adafactor, no dropout,
every position filled. Layers in a loop and layers unrolled take turns, so that their
ratio holds on a busy machine too. `matmul_gflops` is what a product of two square
matrices of 2048 reaches in the same run, `model_gflops` what the step reaches in
matrix products alone.
"""

import argparse
import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import trees
from elm_jax.model import config, cost, loss, t5
from elm_jax.training import optimizers, state, step

SHAPE = config.T5Config(
    vocab_size=1024,
    emb_dim=256,
    num_heads=4,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=4,
    num_decoder_layers=4,
)
BATCH = cost.BatchShape(batch_size=16, inputs_length=256, targets_length=32)
TINY_SHAPE = dataclasses.replace(
    SHAPE,
    **{"vocab_size": 64, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32},
    **{"num_encoder_layers": 2, "num_decoder_layers": 2},
)
TINY_BATCH = cost.BatchShape(batch_size=2, inputs_length=8, targets_length=4)


def make_batch(shape, batch):
    rng = np.random.default_rng(0)

    def tokens(length):
        size = (batch.batch_size, length)
        return rng.integers(2, shape.vocab_size, size).astype(np.int32)

    return {
        "encoder_input_tokens": tokens(batch.inputs_length),
        "decoder_input_tokens": tokens(batch.targets_length),
        "decoder_target_tokens": tokens(batch.targets_length),
        "decoder_loss_weights": np.ones(
            (batch.batch_size, batch.targets_length), np.float32
        ),
    }


def make_stepper(shape, batch):
    """Returns a function that takes one step and waits for it."""
    model = t5.T5(shape)
    tx = optimizers.Adafactor(learning_rate=1e-3).make(1000)
    step_fn = step.make_train_step(loss.make_loss_fn(model), tx)
    now = state.init_state(t5.init_params(model, seed=0), tx, seed=0)

    def take():
        nonlocal now
        now, metrics = step_fn(now, {}, batch)
        jax.block_until_ready(metrics)

    return take


def secs_of(fn):
    before, cpu_before = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - before, time.process_time() - cpu_before


def matmul_gflops(size):
    matrix = jnp.ones((size, size))
    multiply = jax.jit(lambda a: a @ a)
    best = min(secs_of(lambda: multiply(matrix).block_until_ready()) for _ in range(8))
    return 2 * size**3 / best[0] / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a model of no size")
    parser.add_argument("--dtype", default="float32", help="compute dtype")
    parser.add_argument("--repeats", type=int, default=10, help="turns of each way")
    args = parser.parse_args()
    shape, sizes = (TINY_SHAPE, TINY_BATCH) if args.tiny else (SHAPE, BATCH)
    shape = dataclasses.replace(shape, dtype=args.dtype)
    batch = make_batch(shape, sizes)
    unrolled = dataclasses.replace(shape, scan_unroll=shape.num_encoder_layers)
    ways = {
        "scanned": make_stepper(shape, batch),
        "unrolled": make_stepper(unrolled, batch),
    }
    first = {name: secs_of(take)[0] for name, take in ways.items()}
    times = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, take in ways.items():
            times[name].append(secs_of(take))
    best = {name: min(each) for name, each in times.items()}
    num_tokens = sizes.batch_size * (sizes.inputs_length + sizes.targets_length)
    params = t5.param_shapes(t5.T5(shape))
    flops = cost.train_flops(shape, sizes, trainable=params, frozen={})
    row = {
        "benchmark": "train_step",
        "dtype": args.dtype,
        "num_params": trees.count_params(params),
        "matmul_gflops": round(matmul_gflops(128 if args.tiny else 2048), 1),
    }
    for name, (wall_secs, cpu_secs) in best.items():
        gflops = flops / wall_secs / 1e9
        row |= {
            f"{name}_tokens_per_sec": round(num_tokens / wall_secs, 1),
            f"{name}_step_secs": round(wall_secs, 4),
            f"{name}_step_cpu_secs": round(cpu_secs, 4),
            f"{name}_first_step_secs": round(first[name], 2),
            f"{name}_model_gflops": round(gflops, 1),
        }
    row["unrolled_over_scanned"] = round(best["scanned"][0] / best["unrolled"][0], 2)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
