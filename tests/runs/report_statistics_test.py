"""A report calls nothing better that is luck, and says of which trainings it speaks."""

import dataclasses
import json
import re
from unittest import mock

import numpy as np
import pytest

from elm_jax.evaluation import result_store, results
from elm_jax.runs import report
from tests.runs import scored

TASKS = ("plain_ask", "signs_ask", "alike_ask")
NUM_ROWS = 120
PAIRS = re.compile(r'(?s)<section class="pairs".*?class="values">(.*?)</script>')


@pytest.fixture(autouse=True)
def toy_tasks():
    with scored.registered():
        yield


def record(folder, expert, rate, rng, *, split="validation", kind="prompt", **facts):
    """Scores of an expert that is right on each row with the same chance."""
    store = result_store.ResultStore(folder / "results.jsonl")
    for task in TASKS:
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
        )
        store.record(
            cell,
            run_id="r",
            values={"accuracy": float(values.mean())},
            num_examples=NUM_ROWS,
            per_example={"example_ids": np.arange(NUM_ROWS), "accuracy": values},
            facts=results.Facts(kind=kind, inputs_cut=0.0, **facts),
        )


def run(folder, **fields):
    fields = {"unseen_tasks": TASKS, "split": "validation"} | fields
    one = report.Report(model_dir=str(folder), title="t", **fields)
    one.start(config="", operative_config="")
    return (folder / "report" / "tables.md").read_text()


def line(text, label, *, of=""):
    part = text[text.index(of) :]
    return next(row for row in part.splitlines() if row.startswith(f"| {label} |"))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(1)
    record(folder, "multitask", 0.5, rng, kind="multitask")
    record(folder, "retrieved", 0.5, rng, kind="strategy")
    for place in range(40):
        record(folder, f"e{place:02d}", 0.5, rng)
    return folder


def test_the_best_of_many_equals_is_a_bound_without_interval_and_nothing_is_bold(noise):
    text = run(noise)
    assert "**" not in text.split("**Unseen tasks (percent")[1].split("\n\n**")[0][50:]
    for label in ("best_single", "best_per_prompt", "oracle"):
        assert "–" not in line(text, label)  # no interval
    page = (noise / "report" / "index.html").read_text()
    assert page.count("chosen on these rows: a bound") == 3
    for table in PAIRS.findall(page):
        models = {one["label"]: one for one in json.loads(table)["models"]}
        bounds = {"best_single", "best_per_prompt", "oracle"}
        assert {name for name, one in models.items() if one["isBound"]} == bounds
        assert sum(one["isExpert"] for one in models.values()) == 40
        assert not {"best_single_crossfit", "random_expert"} & models.keys()
    assert PAIRS.search(page)
    assert page.count('<tr class="reference bound">') == 3
    assert 'class="best"' not in page.split('id="map-1"')[0]


def test_the_optimism_of_choosing_is_told(noise):
    found = line(run(noise), "best_per_prompt", of="What choosing among 40 experts")
    plain, fitted, optimism = (
        float(re.match(r"[−\d.]+", cell).group().replace("−", "-"))
        for cell in (c.strip() for c in found.split("|")[2:5])
    )
    assert plain > 57
    assert 45 < fitted < 55
    assert optimism == pytest.approx(plain - fitted, abs=0.11)


def test_a_claim_does_not_hold_by_the_luck_of_the_best(noise):
    text = run(noise)
    claim = text.split("\n\n")[1]
    assert "undecided" in claim
    assert "best single (cross-fitted)" in claim
    assert "best single (e" not in claim


def test_a_choice_by_other_rows_is_a_method(noise, tmp_path):
    rng = np.random.default_rng(1)
    for split in ("validation", "test"):
        record(tmp_path, "multitask", 0.5, rng, split=split, kind="multitask")
        record(tmp_path, "retrieved", 0.6, rng, split=split, kind="strategy")
        for place in range(5):
            record(tmp_path, f"e{place}", 0.5 + 0.4 * (place == 3), rng, split=split)
    text = run(tmp_path, split="test")
    assert "–" in line(text, "best_single")
    assert "**" in line(text, "best_single")
    assert "**" in line(text, "best_single_crossfit")
    assert "**" not in line(text, "multitask") + line(text, "oracle")
    assert "best single (e3) +" in text
    # The same file under the names of two splits is one.
    same = tmp_path / "same"
    rng = np.random.default_rng(1)
    for split in ("validation", "test"):
        for place in range(3):
            record(same, f"e{place}", 0.5, rng, split=split, data_fingerprint="aa")
    assert "–" not in line(run(same, split="test"), "best_single")


def seeds(folder, *, number, recipe="r", rng=None):
    rng = rng or np.random.default_rng(2)
    for seed in range(number):
        own = {"training_seed": seed, "recipe": recipe, "source": f"m{seed}/multitask"}
        record(folder, "multitask", 0.4 + 0.1 * seed, rng, kind="multitask", **own)


def test_trainings_of_one_recipe_are_one_expert_with_an_interval_of_both(tmp_path):
    seeds(tmp_path, number=3)
    record(tmp_path, "retrieved", 0.5, np.random.default_rng(3), kind="strategy")
    text = run(tmp_path)
    rows = result_store.ResultStore(tmp_path / "results.jsonl").rows()
    own = [row.value for row in rows if row.expert == "multitask"]
    found = line(text, "multitask").split("|")[-2]
    mean, low, high = map(float, re.findall(r"[\d.]+", found))
    assert mean == pytest.approx(np.mean(own), abs=0.06)
    # t of two degrees of freedom: 4.3 standard errors of trainings 10 points apart.
    assert high - low == pytest.approx(2 * 4.3 * 10 / 3**0.5, rel=0.15)
    assert "trainings where there are several (3 of multitask)" in text
    assert "undecided." in text


def test_other_recipes_and_equal_seeds_are_told_apart(tmp_path):
    rng = np.random.default_rng(2)
    for place, recipe in (("one", "r"), ("two", "s")):
        own = {"recipe": recipe, "source": f"{place}/multitask"}
        seed = ("one", "two").index(place)
        record(
            tmp_path, "multitask", 0.5, rng, kind="multitask", training_seed=seed, **own
        )
    text = run(tmp_path)
    assert line(text, "multitask (one)")
    assert line(text, "multitask (two)")
    assert "of one training: they say nothing" in text


def test_a_training_that_lacks_tasks_is_left_out_and_told(tmp_path):
    seeds(tmp_path, number=3)
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(lines[:-1]))
    text = run(tmp_path)
    assert "1 trainings of multitask are left out" in text
    assert "several (2 of multitask)" in text


def of_library(folder, *, number):
    """Scores of a strategy that asked a library of each seed."""
    rng = np.random.default_rng(4)
    for seed in range(number):
        experts = {"e": f"e{seed}"}
        facts = {"training_seed": seed, "library": "l", "experts": experts}
        facts |= {"strategy": "retrieved", "strategy_note": "by votes"}
        record(folder, "retrieved", 0.4 + 0.1 * seed, rng, kind="strategy", **facts)


def test_a_strategy_that_asked_a_library_of_each_seed_is_one_way(tmp_path):
    of_library(tmp_path, number=3)
    seeds(tmp_path, number=3)
    text = run(tmp_path)
    rows = result_store.ResultStore(tmp_path / "results.jsonl").rows()
    own = [row.value for row in rows if row.expert == "retrieved"]
    found = line(text, "retrieved").split("|")[-2]
    mean, low, high = map(float, re.findall(r"[\d.]+", found))
    assert mean == pytest.approx(np.mean(own), abs=0.06)
    of_seeds = np.reshape(own, (3, len(TASKS))).mean(axis=1)
    width = 2 * 4.3 * np.std(of_seeds, ddof=1) / 3**0.5
    assert high - low == pytest.approx(width, rel=0.15)
    assert "(3 of multitask, 3 of retrieved)" in text
    assert "newest row counts" not in text
    claim = next(one for one in text.splitlines() if "beat the multitask" in one)
    assert "undecided." in claim


def test_a_merge_is_held_against_its_parts_of_the_same_seed(tmp_path):
    rng = np.random.default_rng(5)
    for seed, rate in enumerate((0.2, 0.45, 0.7)):
        own = {"training_seed": seed, "recipe": "r"}
        for name, kind, gain in (("both", "merged", 0.2), ("one", "dataset", 0.0)):
            facts = own | {"source": f"{kind}/{seed}/{name}"}
            record(tmp_path, name, rate + gain, rng, kind=kind, **facts)
    text = run(
        tmp_path, composed_tasks=TASKS, merged_expert="both", merged_parts=("one",)
    )
    claim = next(line for line in text.splitlines() if "A merge of two" in line)
    # By the scores of other seeds it could not be told: they are 25 points apart.
    assert "on the composed task: holds. Merged" in claim


def test_a_seed_whose_library_was_asked_for_some_tasks_only_is_left_out(tmp_path):
    of_library(tmp_path, number=3)
    path = tmp_path / "results.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    text = run(tmp_path)
    assert "1 trainings of retrieved are left out" in text
    assert "several (2 of retrieved)" in text


def test_rows_of_a_strategy_that_no_seed_has_all_of_are_one_training(tmp_path):
    of_library(tmp_path, number=2)
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], *lines[4:]]))  # each lacks a task
    text = run(tmp_path)
    assert "of one training: they say nothing" in text
    kept = [json.loads(one)["value"] for one in (lines[0], *lines[4:])]
    mean = float(line(text, "retrieved").split("|")[-2].split("(")[0])
    assert mean == pytest.approx(np.mean(kept), abs=0.06)


def test_a_plan_says_what_rows_can_show(noise, tmp_path):
    one = report.Report(
        model_dir=str(noise), title="t", unseen_tasks=TASKS, split="validation"
    )
    told = one.plan()["smallest difference"]
    assert told.startswith("4.7 points if two models differ on 10% of the rows, 8.1")
    empty = report.Report(model_dir=str(tmp_path), title="t", unseen_tasks=TASKS)
    assert "no rows are scored" in empty.plan()["smallest difference"]


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


def first_number(text):
    return float(re.search(r"[\d.]+", text.split("|")[-2]).group())


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


def numbers(row):
    """The first number of each cell, and whether it has an interval."""
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    found = [re.match(r"[\d.]+", cell) for cell in cells]
    pairs = zip(found, cells, strict=True)
    return [(float(one.group()), "–" in cell) if one else cell for one, cell in pairs]


def test_the_best_of_many_settings_is_worth_what_other_rows_say(tmp_path):
    rng = np.random.default_rng(11)
    record(tmp_path, "multitask", 0.5, rng, kind="multitask")
    for place in range(20):
        own = {"kind": "strategy", "strategy": "merged_top_k"}
        record(tmp_path, f"merged_{place}", 0.5, rng, **own)
    record(tmp_path, "retrieved", 0.5, rng, kind="strategy", strategy="retrieved")
    text = run(tmp_path)
    found = line(text, "20 of merged_top_k")
    (bound, has), (fitted, fitted_has), (optimism, _), elsewhere, _, each = numbers(
        found
    )
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
            own = {"kind": "strategy", "strategy": "merged_top_k", "split": split}
            record(tmp_path, f"merged_{place}", 0.5 + 0.3 * (place == 2), rng, **own)
    text = run(tmp_path, split="test")
    found = numbers(line(text, "4 of merged_top_k"))
    assert found[3][0] == found[0][0]  # validation rows choose the best one, too
    assert found[3][1]
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
    own = numbers(line(part, "own prompt expert"))
    # All experts were scored on both tasks: each task's own is the one of its name.
    wanted = np.mean([by[task, task] for task in TASKS[:2]])
    assert own[0][0] == pytest.approx(wanted, abs=0.06)
    wanted = np.mean([by[task, TASKS[2]] for task in TASKS[:2]])
    assert own[1][0] == pytest.approx(wanted, abs=0.06)
    assert "Held-in" not in run(tmp_path)


def test_an_expert_of_the_rows_that_choose_is_a_control_and_is_never_chosen(tmp_path):
    rng = np.random.default_rng(4)
    for split in ("validation", "test"):
        record(tmp_path, "selection", 0.9, rng, kind="selection", split=split)
        for place in range(3):
            record(tmp_path, f"e{place}", 0.5, rng, split=split)
    text = run(tmp_path, split="test")
    assert "–" in line(text, "selection")  # a method, with intervals
    assert first_number(line(text, "oracle")) < 65
    page = (tmp_path / "report" / "index.html").read_text()
    assert "trained on the labelled rows by which others are chosen" in page
    # Where the rows that it was trained on are reported, it is a bound.
    assert "–" not in line(run(tmp_path), "selection")


def test_a_strategy_whose_rows_are_of_several_trainings_says_so(tmp_path):
    rng = np.random.default_rng(6)
    record(tmp_path, "base", 0.5, rng, kind="base")
    for seed, task in enumerate(TASKS):
        with mock.patch(f"{__name__}.TASKS", (task,)):
            seeds = {"training_seed": seed, "library": "one"}
            record(tmp_path, "retrieved", 0.7, rng, kind="strategy", **seeds)
    told = "retrieved is shown as one training, and its rows are of several"
    assert told in run(tmp_path)
