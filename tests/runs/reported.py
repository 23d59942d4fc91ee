"""Rows of experts that are right with a chance, and the tables of a report of them."""

import re

import numpy as np

from elm_jax.evaluation import result_store, results
from elm_jax.runs import report

TASKS = ("plain_ask", "signs_ask", "alike_ask")
NUM_ROWS = 120


def record(
    folder,
    expert,
    rate,
    rng,
    *,
    tasks=TASKS,
    split="validation",
    settings="",
    **facts,
):
    """Scores of an expert that is right on each row with the same chance."""
    store = result_store.ResultStore(folder / "results.jsonl")
    for task in tasks:
        values = 100.0 * (rng.random(NUM_ROWS) < rate)
        cell = results.Cell(
            expert=expert,
            base_fingerprint="0123",
            expert_fingerprint=f"{expert}{facts.get('training_seed', '')}",
            task=task,
            dataset=task.removesuffix("_ask"),
            prompt="ask",
            split=split,
            protocol="elm",
            seed=0,
            checkpoint_step=0,
            scoring=split,
            settings=settings,
        )
        store.record(
            cell,
            run_id="r",
            values={"accuracy": float(values.mean())},
            num_examples=NUM_ROWS,
            per_example={"example_ids": np.arange(NUM_ROWS), "accuracy": values},
            facts=results.Facts(**({"kind": "prompt", "inputs_cut": 0.0} | facts)),
        )


def run(folder, **fields):
    fields = {"unseen_tasks": TASKS, "split": "validation"} | fields
    report_run = report.Report(model_dir=str(folder), title="t", **fields)
    report_run.start(config="", operative_config="")
    return (folder / "report" / "tables.md").read_text()


def line(text, label, *, of=""):
    part = text[text.index(of) :]
    return next(row for row in part.splitlines() if row.startswith(f"| {label} |"))


def first_number(text):
    return float(re.search(r"[\d.]+", text.split("|")[-2]).group())


def numbers(row):
    """The first number of each cell, and whether it has an interval."""
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    matches = [re.match(r"[\d.]+", cell) for cell in cells]
    pairs = zip(matches, cells, strict=True)
    return [
        (float(match.group()), "–" in cell) if match else cell for match, cell in pairs
    ]
