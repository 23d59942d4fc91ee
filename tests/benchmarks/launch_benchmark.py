"""Time from launching elm_train to its first finished step; prints one JSON line.

Usage: python tests/benchmarks/launch_benchmark.py [--tiny] [--repeats 3]

A base of 10 M parameters (the shape of `train_step_benchmark.py`) on the embedded
suite's prompts, batch 16. Launches with a cold token cache (SeqIO and TensorFlow build
it) and with a warm one take turns; the ratio is cold over warm. Imports, compilation
and the initialisation of parameters count in both.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

SHAPE = {
    "emb_dim": 256,
    "num_heads": 4,
    "head_dim": 64,
    "mlp_dim": 1024,
    "num_encoder_layers": 4,
    "num_decoder_layers": 4,
    "vocab_size": 1024,
}
TINY = SHAPE | {"emb_dim": 16, "mlp_dim": 16, "num_encoder_layers": 1}


def launch_secs(folder: pathlib.Path, shape: dict[str, int]) -> float:
    """Returns the seconds from the start of a process to its first step's metrics."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    shutil.rmtree(folder / "base", ignore_errors=True)
    command = [
        *(sys.executable, "-m", "elm_jax.cli.elm_train"),
        "--gin_file=gin/pocket/base.gin",
        f"--gin.MODEL_DIR={folder}",
        "--gin.TRAIN_STEPS=1",
        "--gin.BATCH_SIZE=16",
        "--gin.options.Metrics.every_steps=1",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 256, 'targets': 64}",
        *(f"--gin.config.T5Config.{name}={size}" for name, size in shape.items()),
    ]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step 1/1" in line:
                secs = time.perf_counter() - start
                process.wait()
                return secs
    raise RuntimeError(f"no first step: {' '.join(command)}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    shape = TINY if options.tiny else SHAPE
    cold, warm = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for _ in range(options.repeats):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            cold.append(launch_secs(folder, shape))
            warm.append(launch_secs(folder, shape))
    result = {
        "benchmark": "launch",
        "warm_secs": round(statistics.median(warm), 2),
        "cold_secs": round(statistics.median(cold), 2),
        "cold_over_warm": round(statistics.median(cold) / statistics.median(warm), 2),
        "repeats": options.repeats,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
