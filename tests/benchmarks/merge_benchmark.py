"""Merges experts on disk, and in turn copies the same bytes; prints one JSON line.

Usage: python tests/benchmarks/merge_benchmark.py [--num_experts=2] [--num_layers=6]
         [--width=2048] [--method=uniform] [--at_once] [--linked] [--folder=/tmp]

Experts have all parameters of a T5 of `width` (2,048 and 24 layers are T5 XL: 11.4 GB
each) with random values in float32. They are written layer by layer, as merges do, or
with `--at_once` from memory, as trainings do. With `--linked` all experts are links to
the files of the first, for disks on which there is no room: memory is that of as many
experts, but their files are read from the disk once. A round has three parts, with
files that are not in the cache of the system, as far as that lets itself be told:

- files: reads all files of the experts, and writes as many bytes as the result has;
- store: reads all experts' tensors, and writes those of one, by the functions that
  merges use;
- merge: merges them, in a process of its own, whose greatest memory is printed.

Ratios are medians of seconds of copying over those of merging: 1 is as fast; `cpu` is
that of the processor's seconds, for machines that have other work.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import (
    experts,
    leaf_parts,
    manifest,
    resumable,
    stores,
    streaming,
)
from elm_jax.checkpoints.tensors import Leaf

MERGE = """
import pathlib, re, sys, time
from elm_jax.merging import methods
from elm_jax.runs import merged_files
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
folders = sorted((folder / "experts").iterdir())
begun, cpu = time.monotonic(), time.process_time()
merged_files.write(methods.of(name), folders, folder / "experts" / "expert_0",
                   folder / "merged", name="merged")
secs, cpu = time.monotonic() - begun, time.process_time() - cpu
# `ru_maxrss` would be that of the process that started this one.
peak = re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())
print(secs, cpu, peak[1])
"""


def shapes(width, num_layers):
    """Shapes of the leaves of a T5 1.1: 2.5 times as wide inside, and gated."""
    inner, square = (width, width * 5 // 2), (width, width)
    found: dict[str, tuple[int, ...]] = {"token_embedder/embedding": (32128, width)}
    for stack, attentions in (("encoder", 1), ("decoder", 2)):
        for number in range(attentions):
            for part in ("query", "key", "value", "out"):
                name = f"{stack}/layers/attention_{number}/{part}/kernel"
                found[name] = (num_layers, *square)
        for part in ("wi_0", "wi_1"):
            found[f"{stack}/layers/mlp/{part}/kernel"] = (num_layers, *inner)
        found[f"{stack}/layers/mlp/wo/kernel"] = (num_layers, *inner[::-1])
    found["decoder/logits_dense/kernel"] = (width, 32128)
    return found


def make_expert(folder, sizes, seed, *, at_once):
    info = manifest.Manifest(
        name=f"expert_{seed}",
        kind="dataset",
        base_name="none",
        base_fingerprint="0" * 16,
        model={},
        trainable_pattern=".*",
    )

    largest = max(int(np.prod(shape[-2:])) for shape in sizes.values())
    noise = np.random.default_rng(seed).standard_normal(largest + 1000, np.float32)

    def leaf(name, shape):
        rows = 1 if "/layers/" in name else max(1, (1 << 24) // shape[1])
        rows = min(rows, shape[0])

        def blocks():
            for start in range(0, shape[0], rows):
                part = (min(rows, shape[0] - start), *shape[1:])
                size = int(np.prod(part))
                first = (start + seed) % 1000  # else parts would be the same
                yield noise[first : first + size].reshape(part)

        return Leaf(shape, np.dtype(np.float32), rows, blocks)

    leaves = {name: leaf(name, shape) for name, shape in sizes.items()}
    if at_once:
        whole = {n: np.concatenate([*x.blocks()]) for n, x in leaves.items()}
        experts.save_expert(folder, trees.unflatten(whole), info)
    else:
        resumable.save_expert(
            folder, leaves, info, recipe="", on_bytes=lambda done: None, attached={}
        )


def forget(folder):
    """Asks the system to drop what it has of files in its cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def copy_files(folder, out_bytes):
    block = np.random.default_rng(0).bytes(1 << 24)
    with (folder / "copy").open("wb") as out:
        written = 0
        for path in sorted((folder / "experts").rglob("*")):
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while len(file.read(1 << 24)):
                        if written < out_bytes:
                            written += out.write(block)
        out.flush()
        os.fsync(out.fileno())
    (folder / "copy").unlink()


def copy_store(folder):
    every = [
        stores.open_leaves(stores.as_url(place / experts.PARAMS))
        for place in sorted((folder / "experts").iterdir())
    ]
    writer = stores.ItemWriter(folder / "copy", goes_on=True)
    for name, leaf in every[0].items():
        for others in every[1:]:
            for _ in others[name].blocks():
                pass
        writer.write(name, leaf, leaf.dtype, {}, lambda block: None)
    os.sync()
    shutil.rmtree(folder / "copy")


def merge(folder, name):
    done = subprocess.run(
        [sys.executable, "-c", MERGE, str(folder), name],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    shutil.rmtree(folder / "merged")
    secs, cpu, peak_kb = done.stdout.split()
    return float(secs), float(cpu), int(peak_kb) * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_experts", type=int, default=2)
    parser.add_argument("--num_layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="uniform")
    parser.add_argument("--at_once", action="store_true")
    parser.add_argument("--linked", action="store_true")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    asked = parser.parse_args()
    sizes = shapes(asked.width, asked.num_layers)
    times, peak = {"files": [], "store": [], "merge": []}, 0
    cpu_secs = {part: [] for part in times}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = pathlib.Path(name)
        for seed in range(asked.num_experts):
            place = folder / "experts" / f"expert_{seed}"
            if seed and asked.linked:
                first = folder / "experts" / "expert_0"
                shutil.copytree(first, place, copy_function=os.link)
            else:
                make_expert(place, sizes, seed, at_once=asked.at_once)
        first = folder / "experts" / "expert_0"
        opened, _ = streaming.open_expert(first, block_bytes=1)
        stored = max(x.rows * leaf_parts.row_bytes(x) for x in opened.values())
        out_bytes = sum(
            path.stat().st_size for path in first.rglob("*") if path.is_file()
        )
        for _ in range(asked.rounds):
            for part, run in (
                ("files", lambda: copy_files(folder, out_bytes)),
                ("store", lambda: copy_store(folder)),
            ):
                forget(folder)
                begun, cpu = time.monotonic(), time.process_time()
                run()
                times[part].append(time.monotonic() - begun)
                cpu_secs[part].append(time.process_time() - cpu)
            forget(folder)
            secs, cpu, num_bytes = merge(folder, asked.method)
            times["merge"].append(secs)
            cpu_secs["merge"].append(cpu)
            peak = max(peak, num_bytes)
    expert_bytes = sum(4 * int(np.prod(shape)) for shape in sizes.values())
    secs = {part: statistics.median(found) for part, found in times.items()}
    cpu_secs = {part: statistics.median(found) for part, found in cpu_secs.items()}
    row = {
        "benchmark": "merge",
        "method": asked.method,
        "num_experts": asked.num_experts,
        "stored": "as trainings do" if asked.at_once else "as merges do",
        "linked": asked.linked,
        "expert_gb": round(expert_bytes / 1e9, 3),
        "largest_part_gb": round(stored / 1e9, 3),
        "peak_gb": round(peak / 1e9, 3),
        "bar_gb": round(((asked.num_experts + 3) * stored + 2**30) / 1e9, 3),
        **{f"{part}_secs": round(value, 2) for part, value in secs.items()},
        **{f"{part}_cpu_secs": round(value, 1) for part, value in cpu_secs.items()},
        "files_over_merge": round(secs["files"] / secs["merge"], 3),
        "store_over_merge": round(secs["store"] / secs["merge"], 3),
        "store_over_merge_cpu": round(cpu_secs["store"] / cpu_secs["merge"], 3),
        "merged_mb_per_sec": round(expert_bytes / 1e6 / secs["merge"]),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
