"""Tables of figures tell what a choice is worth, of experts and of settings."""

import dataclasses

import numpy as np
import pytest

from elm_jax.evaluation import result_store, results
from tests.runs.reported import (
    NUM_ROWS,
    TASKS,
    first_number,
    line,
    numbers,
    record,
    run,
)

pytestmark = pytest.mark.usefixtures("toy_tasks")


def choices(folder):
    """A library of two prompt experts that fit, and a dataset expert that is best."""
    rates = {"one": (0.9, 0.3, 0.3), "two": (0.3, 0.9, 0.9), "all": (0.95,) * 3}
    store = result_store.ResultStore(folder / "results.jsonl")
    rng = np.random.default_rng(5)
    chosen = ("one", "two", "two")
    right = {name: rng.random((3, NUM_ROWS)) for name in rates}
    for name in (*rates, "retrieved"):
        for place, task in enumerate(TASKS):
            who = chosen[place] if name == "retrieved" else name
            values = 100.0 * (right[who][place] < rates[who][place])
            cell = results.Cell(
                expert=name,
                base_fingerprint="0123",
                expert_fingerprint=who,
                task=task,
                dataset=task.removesuffix("_ask"),
                prompt="ask",
                split="validation",
                protocol="elm",
                seed=0,
                checkpoint_step=0,
            )
            kind = {"all": "dataset", "retrieved": "strategy"}.get(name, "prompt")
            facts = results.Facts(kind=kind, inputs_cut=0.0)
            if name == "retrieved":
                facts = dataclasses.replace(
                    facts, strategy="retrieved", experts={who: who}
                )
            store.record(
                cell,
                run_id="r",
                values={"accuracy": float(values.mean())},
                num_examples=NUM_ROWS,
                per_example={"example_ids": np.arange(NUM_ROWS), "accuracy": values},
                facts=facts,
            )


def test_retrieval_stands_beside_experts_of_other_tasks_and_its_own_bound(tmp_path):
    choices(tmp_path)
    text = run(tmp_path)
    assert first_number(line(text, "oracle")) > 93  # may take the dataset expert
    assert 86 < first_number(line(text, "library_oracle")) < 93
    # The expert of the others: 0.3 on the first, (0.3 + 0.9) / 2 on the second.
    assert 45 < first_number(line(text, "shuffled_experts")) < 55
    part = text[text.index("how well retrieval chooses") :]
    assert "2 of kind prompt" in part
    assert first_number(line(part, "these below retrieved")) == 2
    drawn = line(part, "random for each dataset")
    assert 55 < first_number(drawn) < 65
    assert "(" in drawn
    # Three datasets have six orders; in two of them each has its expert.
    assert "0.333" in line(part, "such a fit by chance")
    assert first_number(line(part, "regret to this oracle")) == 0


@pytest.mark.slow
def test_the_best_of_many_settings_is_worth_what_other_rows_say(tmp_path):
    rng = np.random.default_rng(11)
    record(tmp_path, "multitask", 0.5, rng, kind="multitask")
    for place in range(20):
        facts = {"kind": "strategy", "strategy": "merged_top_k"}
        record(tmp_path, f"merged_{place}", 0.5, rng, **facts)
    record(tmp_path, "retrieved", 0.5, rng, kind="strategy", strategy="retrieved")
    text = run(tmp_path)
    row = line(text, "20 of merged_top_k")
    (bound, has), (fitted, fitted_has), (optimism, _), elsewhere, _, each = numbers(row)
    assert (has, fitted_has, elsewhere) == (False, True, "–")
    assert bound > 53
    assert 45 < fitted < 53
    assert optimism == pytest.approx(bound - fitted, abs=0.11)
    assert 45 < each[0] < 55
    assert numbers(line(text, "merged_top_k_crossfit"))[-1] == (fitted, True)
    assert "of retrieved" not in text[text.index("choosing among settings") :]


def test_settings_that_other_rows_choose_are_told(tmp_path):
    rng = np.random.default_rng(8)
    for split in ("validation", "test"):
        for place in range(4):
            facts = {"kind": "strategy", "strategy": "merged_top_k", "split": split}
            record(tmp_path, f"merged_{place}", 0.5 + 0.3 * (place == 2), rng, **facts)
    text = run(tmp_path, split="test")
    cells = numbers(line(text, "4 of merged_top_k"))
    assert cells[3][0] == cells[0][0]  # validation rows choose the best one, too
    assert cells[3][1]
    assert "6 merged_2" in line(text, "4 of merged_top_k")


def test_held_in_scores_stand_beside_held_out_ones(tmp_path):
    rng = np.random.default_rng(3)
    for label, rate in (("base", 0.5), ("multitask", 0.9)):
        record(tmp_path, label, rate, rng, kind=label)
    for task in TASKS[:2]:
        record(tmp_path, task, 0.6, rng)
    text = run(tmp_path, unseen_tasks=TASKS[2:], seen_tasks=TASKS[:2])
    part = text[text.index("Held-in and held-out") :]
    rows = result_store.ResultStore(tmp_path / "results.jsonl").rows()
    by = {(row.expert, row.task): row.value for row in rows}
    for label in ("base", "multitask"):
        held_in, held_out, number = numbers(line(part, label))
        assert held_in[0] == pytest.approx(
            np.mean([by[label, task] for task in TASKS[:2]]), abs=0.06
        )
        assert held_out[0] == pytest.approx(by[label, TASKS[2]], abs=0.06)
        assert held_in[1]
        assert held_out[1]
        assert number[0] == 2
    cells = numbers(line(part, "own prompt expert"))
    # All experts were scored on both tasks: each task's own is the one of its name.
    expected = np.mean([by[task, task] for task in TASKS[:2]])
    assert cells[0][0] == pytest.approx(expected, abs=0.06)
    expected = np.mean([by[task, TASKS[2]] for task in TASKS[:2]])
    assert cells[1][0] == pytest.approx(expected, abs=0.06)
    assert "Held-in" not in run(tmp_path)
