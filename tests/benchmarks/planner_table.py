"""Compiles the planner's cases, one after another, and keeps what compilers say.

    nice -n 15 python tests/benchmarks/planner_table.py [--limit=N] [--only=TEXT]

Needs the extras compile_tpu and compile_gpu, about 8 GB of memory and 1 to 2 minutes
for each case, more for a TPU. Programs for GPUs are compiled up to their machine code,
which changes no byte (planner_child.py), unless their texts are asked for. A case that
is in the table is skipped, so the script can be ended and started again. The table lies
beside it, and tests/runs/training/planner_table_test.py compares the planner with it.
A row whose program lacks a field was compiled by code that did not have it, and one
without `work` by code that did not count it, or counted it wrongly.
"""

import argparse
import json
import pathlib
import sys

from elm_jax import errors
from elm_jax.compiling import targets
from elm_jax.disk import files
from elm_jax.runs.compiling import compiler, result

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.benchmarks import planner_cases  # noqa: E402 - run as a program, too

GPU_CHILD = pathlib.Path(__file__).with_name("planner_child.py")
TABLE = pathlib.Path(__file__).with_name("planner_table.jsonl")


def main():
    """Compiles what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=10**6)
    parser.add_argument("--only", default="")
    parser.add_argument(
        "--texts", default="", help="folder for the whole programs' texts"
    )
    parser.add_argument("--again", action="store_true", help="also what is there")
    args = parser.parse_args()
    rows = read_table()
    done = 0
    for number, (name, target, program) in enumerate(planner_cases.cases()):
        if args.only not in name or done == args.limit:
            continue
        if name in rows and not args.again:
            continue
        options = {}
        if args.texts:
            options["text_path"] = f"{args.texts}/{number}.txt"
        elif targets.find(target).platform == "cuda":
            options["child"] = (f"{GPU_CHILD}",)
        try:
            compiled = compiler.compile_program(
                program, targets.find(target), **options
            )
        except errors.ElmError as error:
            print(f"{name}: {error}", flush=True)  # noqa: T201
            continue
        rows[name] = {
            "name": name,
            "target": target,
            "program": program.to_json(),
            "compiled": result.to_json(compiled),
        }
        write_table(rows)
        done += 1
        total = compiled.memory.total / 2**30 if compiled.memory else 0
        print(  # noqa: T201
            f"{name}: {total:.2f} GiB, {compiled.compile_secs:.0f} s,"
            f" {compiled.out_of_memory}",
            flush=True,
        )


def read_table():
    """Returns the rows by the name of their case."""
    if not TABLE.is_file():
        return {}
    rows = map(json.loads, TABLE.read_text("utf-8").splitlines())
    return {row["name"]: row for row in rows}


def write_table(rows):
    """Writes rows of cases that there are, in their order."""
    names = [name for name, _, _ in planner_cases.cases()]
    lines = [json.dumps(rows[name]) for name in names if name in rows]
    files.write_text(TABLE, "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
