"""What sums of gradients in float32 cost a step in bfloat16; prints JSON lines.

Usage: python tests/benchmarks/sums_benchmark.py [--steps=N]
A small T5 (all parameters train) on eight devices of this CPU, each with two rows. One
line for sums in float32, as trainings have them, and one for casts before the sum, as
JAX does by itself: bytes that each device sums with others, temporaries of the program,
and processor seconds of a step. A CPU widens bfloat16 before it sums, so there the
second line's messages are in truth as large as the first one's.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from elm_jax import float32_sums, trees  # noqa: E402 - run as a program, too
from elm_jax.compiling import roofline, targets  # noqa: E402
from elm_jax.model import config, cost  # noqa: E402
from elm_jax.peft import expert_parts  # noqa: E402
from elm_jax.runs.compiling import programs  # noqa: E402
from elm_jax.runs.placement import Devices  # noqa: E402
from elm_jax.training import optimizers  # noqa: E402

STEP = programs.Program(
    kind="step",
    model=config.T5Config(
        vocab_size=1024,
        emb_dim=128,
        num_heads=4,
        head_dim=32,
        mlp_dim=512,
        num_encoder_layers=2,
        num_decoder_layers=2,
        dropout_rate=0.1,
        dtype="bfloat16",
    ),
    batch=cost.BatchShape(batch_size=16, inputs_length=64, targets_length=32),
    devices=Devices(num_data=8, num_model=1, axis_rules="data"),
    trainable_pattern=expert_parts.DATASET_EXPERT,
    optimizer=optimizers.Adafactor(),
)
PLAIN = {
    "product": lambda rows, kernel: jnp.dot(rows, kernel.astype(rows.dtype)),
    "scaled": lambda x, scale: x * scale.astype(x.dtype)[None, None],
}


def measure(steps):
    """Returns a row's numbers of the step, as its uses of parameters now are."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        program = programs.lower(STEP, jax.devices()[:8])
        compiled = program.compile(
            compiler_options={
                "xla_dump_to": folder,
                "xla_dump_hlo_pass_re": "spmd-partitioning",
            }
        )
        compile_secs = time.process_time() - began
        (file,) = pathlib.Path(folder).glob("*.after_spmd-partitioning.*")
        work = roofline.work_of(file.read_text(), targets.find("v5litepod-8"))
    stats: Any = compiled.memory_analysis()
    arguments = jax.tree.map(
        lambda leaf, place: jax.device_put(np.ones(leaf.shape, leaf.dtype), place),
        program.args_info[0],
        compiled.input_shardings[0],
    )
    now, *others = arguments
    secs = []
    for _ in range(steps + 2):
        began = time.process_time()
        now, _ = jax.block_until_ready(compiled(now, *others))
        secs.append(time.process_time() - began)
    return {
        "summed_bytes": {
            dtype: sum(c.num_bytes for c in work.collectives if c.dtype == dtype)
            for dtype in sorted({c.dtype for c in work.collectives})
        },
        "temporary_bytes": stats.temp_size_in_bytes,
        "step_cpu_secs": float(np.median(secs[2:])),
        "compile_cpu_secs": compile_secs,
        "num_params": trees.count_params(STEP.params[0]),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    print(json.dumps({"sums": "float32", **measure(args.steps)}), flush=True)
    with mock.patch.multiple(float32_sums, **PLAIN):
        print(json.dumps({"sums": "bfloat16", **measure(args.steps)}), flush=True)


if __name__ == "__main__":
    main()
