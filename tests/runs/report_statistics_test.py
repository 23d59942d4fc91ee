"""A report calls nothing better that is luck, and says of which trainings it speaks."""

import json
import re

import numpy as np
import pytest

from elm_jax.evaluation import result_store
from elm_jax.runs import report
from tests.runs.reported import TASKS, first_number, line, record, run

PAIRS = re.compile(r'(?s)<section class="pairs".*?class="values">(.*?)</script>')


pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(1)
    record(folder, "multitask", 0.5, rng, kind="multitask")
    record(folder, "retrieved", 0.5, rng, kind="strategy")
    for place in range(40):
        record(folder, f"e{place:02d}", 0.5, rng)
    return folder


@pytest.mark.slow
def test_the_best_of_many_equals_is_a_bound_without_interval_and_nothing_is_bold(noise):
    text = run(noise)
    assert "**" not in text.split("**Unseen tasks (percent")[1].split("\n\n**")[0][50:]
    for label in ("best_single", "best_per_prompt", "oracle"):
        assert "–" not in line(text, label)  # no interval
    page = (noise / "report" / "index.html").read_text()
    assert page.count("chosen on these rows: a bound") == 3
    for table in PAIRS.findall(page):
        models = {model["label"]: model for model in json.loads(table)["models"]}
        bounds = {"best_single", "best_per_prompt", "oracle"}
        assert {name for name, model in models.items() if model["isBound"]} == bounds
        assert sum(model["isExpert"] for model in models.values()) == 40
        assert not {"best_single_crossfit", "random_expert"} & models.keys()
    assert PAIRS.search(page)
    assert page.count('<tr class="reference bound">') == 3
    assert 'class="best"' not in page.split('id="map-1"')[0]


def test_the_optimism_of_choosing_is_told(noise):
    row = line(run(noise), "best_per_prompt", of="What choosing among 40 experts")
    plain, fitted, optimism = (
        float(re.match(r"[−\d.]+", cell).group().replace("−", "-"))
        for cell in (c.strip() for c in row.split("|")[2:5])
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


@pytest.mark.slow
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
        facts = {
            "training_seed": seed,
            "recipe": recipe,
            "source": f"m{seed}/multitask",
        }
        record(folder, "multitask", 0.4 + 0.1 * seed, rng, kind="multitask", **facts)


def test_lucky_trainings_do_not_choose_themselves(tmp_path):
    """Each training of one expert is lucky, each in its turn."""
    rng = np.random.default_rng(4)
    for name, rates in (("e0", (0.9, 0.5, 0.5)), ("e1", (0.5, 0.5, 0.9))):
        for seed, rate in enumerate(rates):
            facts = {"training_seed": seed, "recipe": name, "source": f"s{seed}/{name}"}
            record(tmp_path, name, rate, rng, **facts)
    text = run(tmp_path)
    assert "one training is reported and the others choose" in text
    table = text.split("What choosing among 2 experts")[1]
    values = line(table, "best_single").split("|")
    bound, fitted = (float(re.findall(r"[\d.]+", value)[0]) for value in values[2:4])
    # Whoever is lucky in the others is not in the one that is reported, and so twice.
    assert bound > 60
    assert fitted < 57


@pytest.mark.parametrize(
    ("fewest", "sentence"), [(1, "for its luck"), (2, "first 2 of")]
)
def test_unequal_numbers_of_trainings_are_told(tmp_path, fewest, sentence):
    rng = np.random.default_rng(4)
    for name, number in (("e0", fewest), ("e1", 3)):
        for seed in range(number):
            facts = {"training_seed": seed, "recipe": name, "source": f"s{seed}/{name}"}
            record(tmp_path, name, 0.5, rng, **facts)
    text = run(tmp_path)
    assert sentence in text
    assert "and others have up to 3" in text


def test_trainings_of_one_recipe_are_one_expert_with_an_interval_of_both(tmp_path):
    seeds(tmp_path, number=3)
    record(tmp_path, "retrieved", 0.5, np.random.default_rng(3), kind="strategy")
    text = run(tmp_path)
    rows = result_store.ResultStore(tmp_path / "results.jsonl").rows()
    values = [row.value for row in rows if row.expert == "multitask"]
    cell = line(text, "multitask").split("|")[-2]
    mean, low, high = map(float, re.findall(r"[\d.]+", cell))
    assert mean == pytest.approx(np.mean(values), abs=0.06)
    # t of two degrees of freedom: 4.3 standard errors of trainings 10 points apart.
    assert high - low == pytest.approx(2 * 4.3 * 10 / 3**0.5, rel=0.15)
    assert "trainings where there are several (3 of multitask)" in text
    assert "undecided." in text


def test_other_recipes_and_equal_seeds_are_told_apart(tmp_path):
    rng = np.random.default_rng(2)
    for place, recipe in (("one", "r"), ("two", "s")):
        facts = {"recipe": recipe, "source": f"{place}/multitask"}
        seed = ("one", "two").index(place)
        record(
            tmp_path,
            "multitask",
            0.5,
            rng,
            kind="multitask",
            training_seed=seed,
            **facts,
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
        experts = {"e": f"retrieved{seed}"}  # the fingerprint that `record` gives
        facts = {"training_seed": seed, "library": "l", "experts": experts}
        facts |= {"strategy": "retrieved", "strategy_note": "by votes"}
        record(folder, "retrieved", 0.4 + 0.1 * seed, rng, kind="strategy", **facts)


def test_a_strategy_that_asked_a_library_of_each_seed_is_one_way(tmp_path):
    of_library(tmp_path, number=3)
    seeds(tmp_path, number=3)
    text = run(tmp_path)
    rows = result_store.ResultStore(tmp_path / "results.jsonl").rows()
    values = [row.value for row in rows if row.expert == "retrieved"]
    cell = line(text, "retrieved").split("|")[-2]
    mean, low, high = map(float, re.findall(r"[\d.]+", cell))
    assert mean == pytest.approx(np.mean(values), abs=0.06)
    of_seeds = np.reshape(values, (3, len(TASKS))).mean(axis=1)
    width = 2 * 4.3 * np.std(of_seeds, ddof=1) / 3**0.5
    assert high - low == pytest.approx(width, rel=0.15)
    assert "(3 of multitask, 3 of retrieved)" in text
    assert "newest row counts" not in text
    claim = next(
        sentence for sentence in text.splitlines() if "beat the multitask" in sentence
    )
    assert "undecided." in claim


def record_strategies(folder, *names):
    rng = np.random.default_rng(4)
    record(folder, "multitask", 0.5, rng, kind="multitask")
    for name in names:
        chosen = "other" if name == "pooled" else name
        facts = {"strategy": name, "experts": {"e": chosen}}
        record(folder, name, 0.5, rng, kind="strategy", **facts)


def test_the_only_strategy_that_chooses_is_judged(tmp_path):
    record_strategies(tmp_path, "pooled", "nearest")
    assert "; judged by nearest." in run(tmp_path)


@pytest.mark.parametrize("names", [("nearest", "retrieved"), ("retrieved", "nearest")])
def test_of_several_that_choose_the_papers_is_judged_whatever_comes_first(
    tmp_path, names
):
    record_strategies(tmp_path, *names)
    assert "; judged by retrieved." in run(tmp_path)


def test_of_several_others_that_choose_none_is_judged_unless_it_is_named(tmp_path):
    record_strategies(tmp_path, "last", "nearest")
    no_claim = "No claim about experts against the multitask model: no rows of"
    assert f"{no_claim} judged_by, which names one of last, nearest" in run(tmp_path)
    assert "; judged by last." in run(tmp_path, judged_by="last")
    assert f"{no_claim} lost" in run(tmp_path, judged_by="lost")


def test_a_merge_is_held_against_its_parts_of_the_same_seed(tmp_path):
    rng = np.random.default_rng(5)
    for seed, rate in enumerate((0.2, 0.45, 0.7)):
        of_seed = {"training_seed": seed, "recipe": "r"}
        for name, kind, gain in (("both", "merged", 0.2), ("one", "dataset", 0.0)):
            facts = of_seed | {"source": f"{kind}/{seed}/{name}"}
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
    values = [json.loads(text_line)["value"] for text_line in (lines[0], *lines[4:])]
    mean = float(line(text, "retrieved").split("|")[-2].split("(")[0])
    assert mean == pytest.approx(np.mean(values), abs=0.06)


def test_a_plan_says_what_rows_can_show(noise, tmp_path):
    report_run = report.Report(
        model_dir=str(noise), title="t", unseen_tasks=TASKS, split="validation"
    )
    described = report_run.plan()["smallest difference"]
    assert described.startswith(
        "4.7 points if two models differ on 10% of the rows, 8.1"
    )
    empty = report.Report(model_dir=str(tmp_path), title="t", unseen_tasks=TASKS)
    assert "no rows are scored" in empty.plan()["smallest difference"]


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
        facts = {"tasks": (task,), "training_seed": seed, "library": "one"}
        record(tmp_path, "retrieved", 0.7, rng, kind="strategy", **facts)
    sentence = "retrieved is shown as one training, and its rows are of several"
    assert sentence in run(tmp_path)


@pytest.mark.slow
def test_controls_that_were_not_scored_are_told_by_name(tmp_path):
    rng = np.random.default_rng(5)
    sentence = "Controls that were not scored: "
    for split in ("validation", "test"):
        for place in range(2):
            record(tmp_path, f"e{place}", 0.5, rng, split=split)
    assert f"{sentence}base, multitask, selection. " in run(tmp_path, split="test")
    # Without other rows nobody could be trained on the rows that choose.
    assert f"{sentence}base, multitask. " in run(tmp_path, split="validation")
    facts = {"kind": "strategy", "split": "test"}
    record(tmp_path, "retrieved", 0.5, rng, strategy="retrieved", **facts)
    every = "base, multitask, merged_all, random_weights, selection. "
    assert sentence + every in run(tmp_path, split="test")
    # Merged by another method, which is not the mean; noise of another seed is noise.
    for name in ("merged_all", "random_weights"):
        of = {"strategy": name, "settings": "0123abcd"}
        record(tmp_path, f"other_{name}", 0.5, rng, **of, **facts)
    lacking = "base, multitask, merged_all, selection. "
    assert sentence + lacking in run(tmp_path, split="test")
    record(tmp_path, "mean", 0.5, rng, strategy="merged_all", **facts)
    for kind in ("base", "multitask", "selection"):
        record(tmp_path, kind, 0.5, rng, kind=kind, split="test")
    assert sentence not in run(tmp_path, split="test")
