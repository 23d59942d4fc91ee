"""Merges experts on disk, and in turn copies the same bytes; prints one JSON line.

Usage: python tests/benchmarks/merge_benchmark.py [--num_experts=2] [--num_layers=6]
         [--width=2048] [--kind=dataset] [--rank=8] [--method=uniform] [--at_once]
         [--linked] [--parts files store merge] [--rounds=3] [--folder=/tmp]
         [--kept=FOLDER]

Experts have all parameters of a T5 of `width` (2,048 and 24 layers are T5 XL: 11.4 GB
each), or with `--kind=prompt` those of a prompt expert (102 MB of XL: bottlenecks and
layer norms), or with `--kind=lora` LoRAs of queries and values, with random values in
float32. What a method needs that was measured with each expert is random, too, and the
same of all: it is read for each of them. They are written layer by layer, as merges
do, or with `--at_once` from memory, as trainings do. With `--linked` all experts are
links to the files of the first, for disks on which there is no room: memory is that of
as many experts, but their files are read from the disk once. With `--kept` they stay in
a folder, for further calls. A round has three parts, or those that `--parts` names,
with files that are not in the cache of the system, as far as that lets itself be told:

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
    written_arrays,
)
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.disk import sealed_arrays
from elm_jax.merging import methods
from elm_jax.model import config, t5
from elm_jax.peft import bottleneck, expert_parts, lora
from elm_jax.runs import bases, merge_memory

PARTS = ("files", "store", "merge")
KINDS = ("dataset", "prompt", "lora")
MERGE = """
import pathlib, re, sys, time
from elm_jax.merging import methods
from elm_jax.runs import measuring, merged_files
folder, method = pathlib.Path(sys.argv[1]), methods.of(sys.argv[2])
folders = sorted((folder / "experts").iterdir())
class Kept:
    def recipe(self, infos): return {}
    def open(self, method, experts, base_dir):
        return [measuring._leaves(folder / method.measures, {}) for _ in experts]
begun, cpu = time.monotonic(), time.process_time()
merged_files.write(method, folders, folder / "base", folder / "merged", name="merged",
                   source=Kept() if method.measures else None)
secs, cpu = time.monotonic() - begun, time.process_time() - cpu
# `ru_maxrss` would be that of the process that started this one.
peak = re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())
print(secs, cpu, peak[1])
"""


def spec_of(kind, rank):
    """Returns the adapters of an expert, None for all parameters."""
    specs = {
        "prompt": bottleneck.Bottleneck(reduction_factor=32),
        "lora": lora.Lora(rank=rank),
    }
    return specs.get(kind)


def shapes(width, num_layers, kind, spec):
    """Returns the shapes of an expert of a T5 1.1 of this width, and of its base."""
    model = config.T5Config(
        vocab_size=32128,
        emb_dim=width,
        num_heads=width // 64,
        head_dim=64,
        mlp_dim=width * 5 // 2,
        num_encoder_layers=num_layers,
        num_decoder_layers=num_layers,
    )
    whole = t5.param_shapes(bases.build_model(model, spec))
    part = expert_parts.part(whole, pattern(kind), of=kind)
    expert = {name: tuple(leaf.shape) for name, leaf in trees.flatten(part).items()}
    base = {n: shape for n, shape in expert.items() if expert_parts.ADAPTERS not in n}
    return expert, base or {"decoder/decoder_norm/scale": (width,)}


def pattern(kind):
    patterns = {"prompt": expert_parts.PROMPT_EXPERT, "lora": expert_parts.ADAPTERS}
    return patterns.get(kind, expert_parts.DATASET_EXPERT)


def make_statistics(folder, options, sizes):
    """Writes what the method needs to have measured with an expert; parts' bytes."""
    method = methods.of(options.method)
    like = {
        n: Leaf(s, np.dtype(np.float32), 1, lambda: iter(())) for n, s in sizes.items()
    }
    leaves = merge_memory.measured_leaves(method, like, num_positions=512)
    if leaves and not (folder / method.measures).is_dir():
        rng = np.random.default_rng(0)
        arrays = {
            n: np.square(rng.standard_normal(x.shape, np.float32))
            for n, x in leaves.items()
        }
        sealed_arrays.write(folder / method.measures, arrays, {})
    return max((x.rows * leaf_parts.row_bytes(x) for x in leaves.values()), default=0)


def make_expert(folder, sizes, seed, kind, spec, *, at_once):
    info = manifest.Manifest(
        name=f"expert_{seed}",
        kind="dataset" if kind == "dataset" else "prompt",
        base_name="none",
        base_fingerprint="0" * 16,
        model={},
        trainable_pattern=pattern(kind),
        adapter=bases.describe(spec),
    )

    largest = max(4 << 20, *(int(np.prod(shape[-2:])) for shape in sizes.values()))
    noise = np.random.default_rng(seed).standard_normal(largest + 1000, np.float32)

    def leaf(name, shape):
        row_bytes = 4 * int(np.prod(shape[1:]))
        is_one = "/layers/" in name and row_bytes >= experts.LAYER_BYTES
        rows = 1 if is_one else min(max(1, (1 << 24) // row_bytes), shape[0])

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
    writer = written_arrays.ItemWriter(folder / "copy", goes_on=True)
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


def make_experts(folder, options, sizes, base_sizes):
    """Makes what is not there yet of `folder`; a killed call leaves no half expert."""
    storage = {"at_once": options.at_once}
    if not (folder / "base").is_dir():
        make_expert(folder / "base", base_sizes, 0, "dataset", None, **storage)
    first = folder / "experts" / "expert_0"
    for seed in range(options.num_experts):
        place = folder / "experts" / f"expert_{seed}"
        if place.is_dir():
            continue
        if seed and options.linked:
            shutil.copytree(first, place, copy_function=os.link)
        else:
            spec = spec_of(options.kind, options.rank)
            make_expert(place, sizes, seed, options.kind, spec, **storage)


def measure(folder, options, out_bytes):
    """Returns seconds and the processor's seconds of each part, and the peak."""
    secs: dict[str, list[float]] = {part: [] for part in options.parts}
    cpu_secs: dict[str, list[float]] = {part: [] for part in options.parts}
    peak: dict[str, list[float]] = {part: [] for part in options.parts}
    copies = {
        "files": lambda: copy_files(folder, out_bytes),
        "store": lambda: copy_store(folder),
    }
    for part in [*options.parts] * options.rounds:
        forget(folder)
        begun, cpu = time.monotonic(), time.process_time()
        if part == "merge":
            numbers = merge(folder, options.method)
        else:
            copies[part]()
            numbers = time.monotonic() - begun, time.process_time() - cpu, 0
        for samples, number in zip((secs, cpu_secs, peak), numbers, strict=True):
            samples[part].append(number)
    medians = [
        {n: statistics.median(v) for n, v in d.items()} for d in (secs, cpu_secs)
    ]
    return *medians, max(peak.get("merge", [0]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_experts", type=int, default=2)
    parser.add_argument("--num_layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--kind", choices=KINDS, default="dataset")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="uniform")
    parser.add_argument("--at_once", action="store_true")
    parser.add_argument("--linked", action="store_true")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--kept", type=pathlib.Path)
    options = parser.parse_args()
    spec = spec_of(options.kind, options.rank)
    sizes, base_sizes = shapes(options.width, options.num_layers, options.kind, spec)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = options.kept or pathlib.Path(name)
        make_experts(folder, options, sizes, base_sizes)
        first = folder / "experts" / "expert_0"
        opened, _ = streaming.open_expert(first, block_bytes=1)
        stored = max(x.rows * leaf_parts.row_bytes(x) for x in opened.values())
        stored = max(stored, make_statistics(folder, options, sizes))
        out_bytes = sum(
            path.stat().st_size for path in first.rglob("*") if path.is_file()
        )
        secs, cpu_secs, peak = measure(folder, options, out_bytes)
    expert_bytes = sum(4 * int(np.prod(shape)) for shape in sizes.values())
    row = {
        "benchmark": "merge",
        "method": options.method,
        "kind": options.kind,
        "num_experts": options.num_experts,
        "stored": "as trainings do" if options.at_once else "as merges do",
        "linked": options.linked,
        "expert_gb": round(expert_bytes / 1e9, 3),
        "largest_part_gb": round(stored / 1e9, 3),
        "peak_gb": round(peak / 1e9, 3),
        "bar_gb": round(((options.num_experts + 3) * stored + 2**30) / 1e9, 3),
        **{f"{part}_secs": round(value, 2) for part, value in secs.items()},
        **{f"{part}_cpu_secs": round(value, 1) for part, value in cpu_secs.items()},
        **{
            f"{part}_over_merge{what}": round(part_secs[part] / part_secs["merge"], 3)
            for what, part_secs in (("", secs), ("_cpu", cpu_secs))
            for part in options.parts
            if "merge" in part_secs and part != "merge"
        },
        "load": [round(load, 1) for load in os.getloadavg()],
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
