"""Speed of training prompt experts in three ways; prints one JSON line.

Usage: python tests/benchmarks/fleet_benchmark.py [--tiny] [--size 10m] [--steps 200]
    [--experts 16] [--processes 16] [--data_dir PATH] [--folder PATH]

(a) one process after the other, (b) one process that trains one expert after another
with all cores, (c) one process that trains a fleet. Each is `elm_train` itself, as a
program, on the same prompts, batches of 8 and natural lengths: rows of DREAM, CoS-E and
Rotten Tomatoes where `--data_dir` has them, else of the embedded suite. (a) is run for
`--processes` experts of the list and counted up to all; as their rows may be shorter
or longer than the others', compare tokens per second where not all are run. Wall and
CPU seconds are from launch on, so that ratios of CPU seconds hold on a busy machine
too. `data_wait_share` is the share of the time between reports in which steps waited
for data, the first one aside, whose steps compile (steps are reported by 50s);
`real_token_share` is that of tokens that are not padding.

`bytes_per_further_expert` is what the compiled step of a fleet with twice the slots
needs more, all buffers counted, beside an expert's own parameters and moments.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
SIZES = {
    "tiny": {"emb_dim": 16, "mlp_dim": 32, "num_heads": 2, "head_dim": 8}
    | {"num_encoder_layers": 1, "num_decoder_layers": 1},
    "10m": {"emb_dim": 256, "mlp_dim": 1024, "num_heads": 4, "head_dim": 64}
    | {"num_encoder_layers": 4, "num_decoder_layers": 4},
    "60m": {"emb_dim": 512, "mlp_dim": 1536, "num_heads": 8, "head_dim": 64}
    | {"num_encoder_layers": 8, "num_decoder_layers": 8},
}
REAL = ("dream_*", "cos_e_v1.11_*", "rotten_tomatoes_*")


def elm(program, gin_file, bindings):
    """Runs a program; returns its wall seconds, CPU seconds and peak bytes."""
    command = [sys.executable, "-m", f"elm_jax.cli.{program}", f"--gin_file={gin_file}"]
    command += [f"--gin.{name}={value}" for name, value in bindings.items()]
    before = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors}")
    wall_secs = time.perf_counter() - before
    return wall_secs, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def prepare(folder, args):
    """Makes base and token caches; returns what all trainings bind."""
    suite = "original" if args.data_dir else "pocket"
    shape = {f"config.T5Config.{n}": size for n, size in SIZES[args.size].items()}
    common = {"MODEL_DIR": folder}
    if args.data_dir:
        elm("elm_tasks", "gin/original/templates.gin", common)
        common["DATA_DIR"] = args.data_dir
        elm("elm_tasks", "gin/original/vocabulary.gin", common)
    base = {**common, **shape, "TRAIN_STEPS": 1, "BATCH_SIZE": 8}
    elm("elm_train", f"gin/{suite}/base.gin", base)
    names = choose_tasks(suite, args.experts)
    bindings = {
        **common,
        "MIXTURE_OR_TASK_NAME": tuple(names),
        "TRAIN_STEPS": args.steps,
        "BATCH_SIZE": 8,
        "bottleneck.Bottleneck.reduction_factor": 8 if args.size == "tiny" else 32,
    }
    if args.data_dir:
        bindings["TASK_FEATURE_LENGTHS"] = {"inputs": 512, "targets": 128}
    first = {
        **bindings,
        "TRAIN_STEPS": 1,
        "options.Results.experts_dir": f"{folder}/warm",
    }
    elm("elm_train", f"gin/{suite}/prompt_experts.gin", first)  # builds the caches
    return f"gin/{suite}/prompt_experts.gin", bindings, names


def choose_tasks(suite, count):
    import tasks.original  # noqa: F401
    import tasks.pocket  # noqa: F401
    from elm_jax.data.tasks import registry

    chosen = registry.expand("pocket_train")
    if suite == "original":
        tasks_found = map(registry.task, registry.expand(REAL))
        chosen = [t.name for t in tasks_found if "accuracy" in t.metrics]
        chosen = [name for name in chosen if "own_words" not in name]
    count = min(count, len(chosen))
    return [sorted(chosen)[i * len(chosen) // count] for i in range(count)]


def run_way(way, gin_file, bindings, names, num_processes):
    """Returns the figures of one way: totals, and real tokens per second."""
    folder = pathlib.Path(bindings["MODEL_DIR"])
    bindings_of_way = {**bindings, "options.Results.experts_dir": f"{folder}/{way}"}
    shutil.rmtree(folder / way, ignore_errors=True)
    shutil.rmtree(folder / "work", ignore_errors=True)
    if way != "fleet":
        bindings_of_way["options.Fleet.size"] = 0
    spread = [i * len(names) // num_processes for i in range(num_processes)]
    shards = spread if way == "processes" else [None]
    runs = []
    for index in shards:
        shard = {} if index is None else {"SHARD": f"{index}/{len(names)}"}
        runs.append(elm("elm_train", gin_file, {**bindings_of_way, **shard}))
    factor = len(names) / num_processes if way == "processes" else 1
    tokens = count_tokens(folder) * factor
    wall_secs, cpu_secs = (factor * sum(r[i] for r in runs) for i in (0, 1))
    return {
        "wall_secs": round(wall_secs, 1),
        "cpu_secs": round(cpu_secs, 1),
        "tokens_per_sec": round(tokens / wall_secs, 1),
        "peak_mib": round(max(run[2] for run in runs) / 2**20),
        "data_wait_share": round(wait_share(folder), 4),
        "real_token_share": round(real_token_share(folder), 4),
    }


def reports(folder):
    """Yields for each expert its reports: number of steps, and what they tell."""
    for path in sorted((folder / "work").rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        before = [0, *(row["step"] for row in rows)]
        yield [(row["step"] - done, row) for done, row in zip(before, rows)]  # noqa: B905


def count_tokens(folder):
    """Returns how many real tokens the experts trained on."""
    rows = [row for each in reports(folder) for row in each]
    return sum(steps * row["tokens_per_step"] for steps, row in rows)


def real_token_share(folder):
    """Returns the share of all tokens in the experts' batches that are not padding."""
    rows = [row for each in reports(folder) for row in each]
    real = sum(steps * row["tokens_per_step"] for steps, row in rows)
    return real / sum(
        steps * row["tokens_per_step"] / row["real_token_share"] for steps, row in rows
    )


def wait_share(folder):
    """Returns the share of the experts' time in which they waited for data."""
    rows = [row for each in reports(folder) for row in each[1:] or each]
    secs = [steps / row["steps_per_sec"] for steps, row in rows]
    waited = [
        s * row["data_wait_share"] for s, (_, row) in zip(secs, rows, strict=True)
    ]
    return sum(waited) / sum(secs)


def measure_growth(size):
    """Returns bytes of one more expert: as compiled, and of its own arrays."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from elm_jax import trees
    from elm_jax.model import config, cost, loss, t5
    from elm_jax.peft import bottleneck, expert_parts
    from elm_jax.training import fleet, optimizers, state

    shape = config.T5Config(vocab_size=1024, **SIZES[size])
    spec = bottleneck.Bottleneck(reduction_factor=8 if size == "tiny" else 32)
    model = t5.T5(shape, spec.adapter_fn(shape.emb_dim))
    trained, frozen = expert_parts.split(
        t5.init_params(model, seed=0), r"_adapter/|_norm/"
    )
    tx = optimizers.AdamW().make(10)
    example = state.init_state(trained, tx, seed=0)
    lengths = {"encoder_input_tokens": 96, "decoder_input_tokens": 8}
    lengths |= {"decoder_target_tokens": 8}
    needed = {}
    for slots in (4, 8):
        crew = fleet.Slots(
            loss.make_loss_fn(model),
            tx,
            example=example,
            mesh=fleet.make_mesh(),
            num_slots=slots,
        )
        batch = {n: np.ones((slots, 8, k), np.int32) for n, k in lengths.items()}
        batch["decoder_loss_weights"] = np.ones((slots, 8, 8), np.float32)
        compiled = crew.lower(frozen, batch).compile()
        sizes = compiled.memory_analysis()
        needed[slots] = (
            sizes.argument_size_in_bytes
            + sizes.temp_size_in_bytes
            + sizes.output_size_in_bytes
            - sizes.alias_size_in_bytes
        ) * crew.num_devices
    of_expert = sum(jnp.asarray(leaf).nbytes for leaf in jax.tree.leaves(example))
    batch_shape = cost.BatchShape(batch_size=8, inputs_length=96, targets_length=8)
    return {
        "bytes_per_further_expert": (needed[8] - needed[4]) // 4,
        "own_parameters_and_moments_bytes": of_expert,
        "activations_of_one_lane_bytes": cost.activation_bytes(
            model, batch_shape, trained=trees.flatten(trained)
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a model of no size")
    parser.add_argument("--size", choices=list(SIZES), default="10m")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--processes", type=int, default=16, help="of way (a)")
    parser.add_argument("--data_dir", default="", help="folder of real datasets")
    parser.add_argument("--folder", default="", help="kept; a new one by default")
    args = parser.parse_args()
    if args.tiny:
        args.size, args.steps, args.experts, args.processes = "tiny", 2, 3, 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or temporary
        gin_file, bindings, names = prepare(folder, args)
        ways = {
            way: run_way(way, gin_file, bindings, names, args.processes)
            for way in ("loop", "fleet", "processes")
        }
    row = {
        "benchmark": "fleet",
        "size": args.size,
        "num_experts": len(names),
        "steps": args.steps,
        "processes_run": args.processes,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        **ways,
    }
    for way, name in (("processes", "a"), ("loop", "b")):
        for unit in ("wall", "cpu"):
            ratio = ways[way][f"{unit}_secs"] / ways["fleet"][f"{unit}_secs"]
            row[f"fleet_over_{name}_{unit}"] = round(ratio, 2)
        rate = ways["fleet"]["tokens_per_sec"] / ways[way]["tokens_per_sec"]
        row[f"fleet_over_{name}_tokens"] = round(rate, 2)
    print(json.dumps(row | measure_growth(args.size)))


if __name__ == "__main__":
    main()
