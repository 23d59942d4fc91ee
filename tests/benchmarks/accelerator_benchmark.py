"""Speed of T5-XL on one accelerator, unattended; prints one JSON line per case.

Usage: python tests/benchmarks/accelerator_benchmark.py --out FOLDER [--tiny]

Needs JAX, Flax, Optax, Orbax and NumPy only, and no installation of elm_jax. Weights
and tokens are random, every position is filled, compute is bfloat16. Cases, in order
of value:

    matmul               the device's bfloat16 matrix rate: a chain of square products
    dataset_step         a training step of all parameters, Adafactor
    prompt_step          a training step of one prompt expert, AdamW
    fleet_8, fleet_1     one step each of 8 prompt experts in one program, and of one
                         with as many rows: a line `fleet_gain` compares them
    fleet_32             as above, of 32
    rank_classification  scores of 4 choices per input

What is aimed at on an H100 is in the lines of any device, beside what was measured: the
best speed of T5-XL that was published (50.4 sequences/s of `dataset_step`), and
`aimed_sequences_per_sec` and `aimed_gain`.

A case may be varied: `dataset_step,attention=cudnn,attention_dropout=0`. Each runs in a
process of its own, with half of the rows again wherever memory runs out; the rows it
got to are in its line. `peak_bytes` is what the device says, `estimated_bytes` the
plan. `utilization` is model FLOPs (nothing counted that is computed
a second time) per second, as a share of what `matmul` reached in the same run;
`peak_utilization` of what the maker states. FOLDER/results.jsonl is written anew,
atomically, after each case; what cases say besides goes to FOLDER/log.txt.

Exit status: 0 if all cases were measured; 1 if one failed; 3 if one was skipped, for
want of memory or time, and none failed.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from elm_jax.disk import files  # noqa: E402 - as one may run without installing

CASES = (
    "matmul",
    "dataset_step",
    "prompt_step",
    "fleet_8",
    "fleet_1,batch_size=8",
    "fleet_32",
    "dataset_step,attention=cudnn,attention_dropout=0",
    "rank_classification,batch_size=256,targets_length=16",
    "dataset_step,attention_dropout=0",
    "fleet_8,attention=cudnn,attention_dropout=0",
    "prompt_step,logits_chunks=8",
    "dataset_step,remat=layer",
)
TINY_CASES = (
    "matmul",
    "dataset_step",
    "prompt_step",
    "fleet_8",
    "fleet_1,batch_size=1",
)
TINY_CASES += ("fleet_32", "rank_classification", *CASES[-2:])
AIMED_GAIN = 1.3  # of a fleet of 8, on an H100
# Less is too little to start, initialise and compile a case.
MIN_CASE_SECS = 20


def parse_flags(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, help="folder of the results")
    parser.add_argument("--cases", nargs="+", help="instead of all")
    parser.add_argument("--tiny", action="store_true", help="a model of no size")
    parser.add_argument("--limit_secs", type=float, default=600, help="of the whole")
    parser.add_argument("--batch_size", type=int, help="rows at most, all experts'")
    parser.add_argument("--inputs_length", type=int, help="512 by default")
    parser.add_argument("--targets_length", type=int, help="114; of choices, too")
    parser.add_argument("--remat", default="products", help="as in config.Execution")
    parser.add_argument("--attention", default="einsum", help="likewise")
    parser.add_argument("--scan_unroll", type=int, default=1, help="likewise")
    parser.add_argument("--dropout_rate", type=float, default=0.1)
    parser.add_argument("--attention_dropout", type=int, default=1, help="0 or 1")
    parser.add_argument("--logits_chunks", type=int, default=1, help="as in T5Config")
    parser.add_argument("--warmup", type=int, default=2, help="steps not timed")
    parser.add_argument("--steps", type=int, default=10, help="steps timed, at most")
    parser.add_argument("--steps_secs", type=float, default=30, help="time for these")
    parser.add_argument("--here", action="store_true", help="in this process")
    parser.add_argument("--matmul_tflops", type=float, help="measured before")
    args = parser.parse_args(arguments)
    args.cases = args.cases or list(TINY_CASES if args.tiny else CASES)
    sizes = (8, 16, 8) if args.tiny else (64, 512, 114)
    names = ("batch_size", "inputs_length", "targets_length")
    for name, size in zip(names, sizes, strict=True):
        setattr(args, name, getattr(args, name) or size)
    return args


def run_alone(args, case, batch_size, tflops, deadline):
    """Returns the row of a case that ran in a process of its own."""
    left = deadline - time.monotonic()
    if left < MIN_CASE_SECS:
        return {"case": case, "status": "skipped", "reason": "no time was left"}
    command = [sys.executable, __file__, *sys.argv[1:], "--here", "--cases", case]
    command += ["--batch_size", str(batch_size)]
    command += ["--matmul_tflops", str(tflops)] if tflops else []
    # JAX takes three quarters of a GPU's memory unless it is told otherwise.
    env = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95", **os.environ}
    output = {"stdout": subprocess.PIPE, "text": True}
    try:
        if args.out is None:
            run = subprocess.run(command, env=env, timeout=left, **output)
        else:
            args.out.mkdir(parents=True, exist_ok=True)
            with open(args.out / "log.txt", "a") as log:
                print(f"{case}, at most {batch_size} rows", file=log, flush=True)
                run = subprocess.run(
                    command, env=env, timeout=left, stderr=log, **output
                )
    except subprocess.TimeoutExpired:
        reason = f"stopped at the limit of {args.limit_secs:g} s"
        return {"case": case, "status": "skipped", "reason": reason}
    try:
        return json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        killed = run.returncode == -signal.SIGKILL  # by the system, for its memory
        return {
            "case": case,
            "status": "out_of_memory" if killed else "failed",
            "batch_size": batch_size,
            "error": f"the process ended with status {run.returncode} and no result",
        }


def run_until_it_fits(run, batch_size):
    """Returns the row of a case, with as many rows per step as memory holds.

    Args:
      run: Gives the row of a case that was told the most rows of its batch.
      batch_size: The most to begin with.
    """
    tries = []
    while True:
        row = run(batch_size)
        if tries:
            row["out_of_memory_at"] = tries
        if row["status"] != "out_of_memory":
            return row
        tries = [*tries, row["batch_size"]]
        batch_size = row["batch_size"] // 2
        if batch_size < row.get("min_batch_size", 1):
            row |= {"status": "failed", "error": "out of memory at the smallest batch"}
            return {**row, "out_of_memory_at": tries}


def run_all(args):
    """Returns the rows of all cases; prints and writes each as it comes."""
    deadline = time.monotonic() + args.limit_secs
    cases = [case for case in args.cases if case != "matmul"]
    rows, tflops = [], None
    for case in ("matmul", *cases):

        def run(batch_size, case=case, tflops=tflops):
            return run_alone(args, case, batch_size, tflops, deadline)

        rows.append(run_until_it_fits(run, args.batch_size))
        tflops = rows[0].get("matmul_tflops")
        print(json.dumps(rows[-1]), flush=True)
        gain = fleet_gain(rows)
        if gain is not None:
            rows.append(gain)
            print(json.dumps(gain), flush=True)
        if args.out is not None:
            lines = [json.dumps(row) + "\n" for row in rows]
            files.write_text(args.out / "results.jsonl", "".join(lines))
    return rows


def fleet_gain(rows):
    """Returns how many times as fast a fleet is as one expert after another.

    None unless the last two cases are a fleet of several and one of one, both with as
    many rows for each expert.
    """
    if len(rows) < 2 or {row["status"] for row in rows[-2:]} != {"ok"}:
        return None
    fleet, single = rows[-2:]
    counts = [row.get("num_experts", 0) for row in (fleet, single)]
    if not (
        fleet["case"].startswith("fleet_") and single["case"].startswith("fleet_1,")
    ):
        return None
    if fleet["batch_size"] != counts[0] * single["batch_size"]:
        return None
    gain = counts[0] * single["step_secs"] / fleet["step_secs"]
    return {
        "case": "fleet_gain",
        "status": "ok",
        "num_experts": counts[0],
        "gain": gain,
        "aimed_gain": AIMED_GAIN,
    }


def main():
    args = parse_flags(sys.argv[1:])
    if args.here:
        import accelerator_cases

        rows = accelerator_cases.run_here(args)
    else:
        # An exception, unlike a signal, takes the case's process along.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        rows = run_all(args)
    statuses = {row["status"] for row in rows}
    sys.exit(
        1 if statuses & {"failed", "out_of_memory"} else 3 * ("skipped" in statuses)
    )


if __name__ == "__main__":
    main()
