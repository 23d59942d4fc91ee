"""The table of routers, against numbers that come from result rows another way."""

import dataclasses
import re

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import token_store
from elm_jax.evaluation import row_lines
from elm_jax.merging import averages
from elm_jax.routing import token_routers
from elm_jax.runs import (
    candidates,
    pooled_candidate,
    routed_candidate,
    routed_tokens,
    router_entropy,
)
from tests.runs import compared, routed, scored, toy
from tests.runs.compared import (
    IDS,
    TOKENS,
    UNSCORED,
    compare,
    questions_of,
    recorded_again,
    table_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toy_tasks")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two prompt experts, a library of them, and made-up scores of what is chosen."""
    folder = tmp_path_factory.mktemp("routers_compared")
    with scored.registered():
        compared.make(folder)
    return folder


@pytest.fixture(scope="module")
def lines(folder):
    """The table's rows by name, and all of the page."""
    with scored.registered():
        run = compare(folder)
        assert run.plan()["library"].endswith("2 experts")
        run.run()
    page = (folder / "report" / "routers.md").read_text()
    cells = [line.strip("|").split("|") for line in page.splitlines() if "|" in line]
    return {
        cells_of_line[0].strip(): [cell.strip() for cell in cells_of_line[1:]]
        for cells_of_line in cells
    }, page


def scores_of(folder):
    rows = row_lines.read_rows(folder / "results.jsonl")
    return {
        (row.expert, row.task): row
        for row in rows
        if (row.metric, row.split) == ("accuracy", "test")
    }


def number(text):
    return float(re.match(r"[−-]?[\d.]+", text)[0].replace("−", "-"))


def mean(values):
    return pytest.approx(np.mean([*values]), abs=0.06)


def test_every_choice_has_the_score_of_its_parameters(folder, lines):
    rows, (table, _) = scores_of(folder), lines
    for name in ("merged_all", *(router.label for router in TOKENS)):
        expected = [rows[name, task].value for task in toy.TASKS]
        assert number(table[name][0]) == mean(expected), name
    base = [rows["base", task].value for task in toy.TASKS]
    assert number(table["base, no expert"][0]) == mean(base) == 16.25


def test_who_chooses_an_expert_has_its_score_regret_and_way(folder, lines):
    """By the choices of an evaluation's questions, and the made-up numbers."""
    table, _ = lines
    votes = {q.task: q.result.expert for q in questions_of(folder)}
    values = {"plain": (50.0, 62.5), "twice": (25.0, 37.5)}
    of_retrieved = [values[name][toy.TASKS.index(task)] for task, name in votes.items()]
    assert number(table["oracle of these experts"][0]) == 56.2  # 56.25, halves to even
    assert number(table["random expert"][0]) == mean([50.0, 62.5, 25.0, 37.5])
    assert number(table["retrieved"][0]) == mean(of_retrieved)
    assert number(table["retrieved"][2]) == mean([56.25 - np.mean(of_retrieved)])
    share = 100 * (np.mean(of_retrieved) - 16.25) / (56.25 - 16.25)
    assert number(table["retrieved"][3]) == pytest.approx(share, abs=0.6)
    hits = sum(name == "plain" for name in votes.values())
    is_own = votes["plain_ask"] == "plain"  # the other task is of no expert
    cells = [f"{hits} of 2", f"{int(is_own)} of 1", f"{len({*votes.values()})}"]
    assert table["retrieved"][4:7] == cells
    assert number(table["retrieved"][7]) == 0


def test_the_entropy_is_that_of_the_weights(lines):
    table, _ = lines
    assert number(table["merged_all"][7]) == pytest.approx(np.log(2), abs=0.01)
    # Of two places one is even and one has a single expert.
    assert number(table[TOKENS[0].label][7]) == pytest.approx(np.log(2) / 2, abs=0.01)


def test_a_token_router_agrees_by_the_expert_of_the_greatest_mean_weight(lines):
    """By hand: `plain` has 0.75, is best on both tasks and was trained on one."""
    table, page = lines
    for router in TOKENS:
        assert table[router.label][4:7] == ["2 of 2", "1 of 1", "1"]
    assert table["merged_all"][4:7] == ["–"] * 3
    assert "greatest mean weight" in page


def test_what_was_not_scored_is_said_to_be_so(lines):
    table, page = lines
    assert table[UNSCORED.label][0] == "not scored"
    assert "1 were not scored on all of these tasks" in page


def test_the_curve_of_abstaining_ends_with_all_tasks(lines):
    _, page = lines
    curve = page.split("Abstaining by by_log_prob")[1]
    assert "100 %" in curve or "100%" in curve


def test_rows_that_ask_and_are_scored_are_refused(folder):
    """The test rows ask, and have made-up scores of every place."""
    asking_test_rows = dataclasses.replace(compare(folder).retrieval, split="test")
    with pytest.raises(errors.DataError, match="that ask and are scored"):
        compare(folder, retrieval=asking_test_rows).run()


@pytest.fixture(scope="module")
def questions(folder):
    with scored.registered():
        return questions_of(folder)


@pytest.mark.parametrize("place", range(6))
def test_scores_of_different_rows_share_no_table(folder, questions, place):
    """Of base, an expert, a merge or a token router, on one of two tasks."""

    def change(task, at):
        is_it = (task, at) == (toy.TASKS[1], place)
        return {"ids": IDS[:30]} if is_it else {}

    recorded_again(folder, questions, f"fewer_{place}.jsonl", change)
    with pytest.raises(errors.DataError, match="not the same"):
        table_of(folder, questions, f"fewer_{place}.jsonl")


def test_the_order_in_which_rows_were_scored_changes_nothing(folder, questions):
    def turned(task, place):
        return {"ids": IDS[::-1]} if place % 2 else {}

    recorded_again(folder, questions, "turned.jsonl", turned)
    expected = table_of(folder, questions, "results.jsonl")
    assert table_of(folder, questions, "turned.jsonl") == expected


@pytest.mark.parametrize("place", range(1, 6))
def test_rows_that_ask_are_looked_for_behind_every_score(folder, questions, place):
    """Not only behind the base's: one cell alone has those rows as well."""
    asking = [q._replace(dataset=as_split(q.dataset, "test")) for q in questions]

    def change(task, at):
        is_it = (task, at) == (toy.TASKS[1], place)
        return {"ids": IDS if is_it else IDS + 1000}  # no row of so great an id asks

    recorded_again(folder, questions, f"asked_{place}.jsonl", change)
    with pytest.raises(errors.DataError, match="that ask and are scored"):
        table_of(folder, asking, f"asked_{place}.jsonl")


def as_split(dataset, split):
    """Returns the same rows as those of another split."""
    key = {**dataset.manifest["key"], "split": split}
    return token_store.TokenizedDataset(
        dataset.columns, {**dataset.manifest, "key": key}
    )


@pytest.mark.parametrize(("place", "name"), [(0, "base"), (1, "plain"), (2, "twice")])
def test_a_score_that_is_not_there_is_named(folder, questions, place, name):
    def change(task, at):
        return None if (task, at) == (toy.TASKS[1], place) else {}

    path = f"without_{place}.jsonl"
    recorded_again(folder, questions, path, change)
    with pytest.raises(errors.DataError, match=f"no score of {name} on signs_ask test"):
        table_of(folder, questions, path)


def test_each_of_two_experts_that_were_trained_on_a_task_is_its_own(folder, questions):
    routed.save_expert(folder, "both", 3, tasks=("twice_ask", "plain_ask"))
    both = folder / "experts" / "both"
    with_both = [q._replace(experts={**q.experts, "both": both}) for q in questions]
    recorded_again(folder, with_both, "owned.jsonl", lambda *_: {})
    figures = dict(table_of(folder, with_both, "owned.jsonl").rows)
    hits = {name: figures[name][5] for name in ("plain", "twice", "both")}
    assert hits == {"plain": "1 of 1", "twice": "0 of 1", "both": "1 of 1"}


def test_scores_of_another_base_or_seed_are_none(folder, questions):
    of_another_base = {"base_fingerprint": "0" * 16}
    recorded_again(folder, questions, "other_base.jsonl", lambda *_: of_another_base)
    path = "{MODEL_DIR}/other_base.jsonl"
    with pytest.raises(errors.DataError, match="no score of base"):
        compare(folder, strategies=("retrieved",), results_path=path).run()


def test_of_scores_of_two_seeds_those_of_the_random_seed_are_shown(folder, questions):
    recorded_again(folder, questions, "seeds.jsonl", lambda *_: {})
    fewer = {"seed": 43, "ids": IDS[:30]}  # 4 and 9 rows of 30 are right for the base
    recorded_again(folder, questions, "seeds.jsonl", lambda *_: fewer)
    compare(
        folder,
        strategies=("retrieved",),
        results_path="{MODEL_DIR}/seeds.jsonl",
        output_path="{MODEL_DIR}/report/seeds.md",
        random_seed=43,
    ).run()
    page = (folder / "report" / "seeds.md").read_text()
    assert "21.7" in next(x for x in page.splitlines() if "base, no expert" in x)


def test_a_plan_finds_what_a_run_would_lack(folder, questions):
    gates = routed_tokens.RoutedTokens(router=token_routers.Gates())
    with pytest.raises(errors.LibraryError, match="no record of expert 'plain'"):
        compare(folder, strategies=("retrieved", gates)).plan()

    def change(task, place):
        return None if place == 2 else {}

    recorded_again(folder, questions, "unplanned.jsonl", change)
    with pytest.raises(errors.DataError, match="no score of twice on plain_ask test"):
        compare(folder, results_path="{MODEL_DIR}/unplanned.jsonl").plan()
    run = compare(folder, tasks=("written_ask",))
    run.data.opened(run.place).open("written_ask", "validation")
    with pytest.raises(errors.ConfigError, match="written freely"):
        run.plan()
    assert "2 experts and the base on 2 rows" in str(compare(folder).plan()["routing"])


def test_strategies_that_ask_no_library_are_refused(folder):
    with pytest.raises(errors.ConfigError, match="choose from a library"):
        compare(folder, strategies=("base", "retrieved"))


def test_weights_of_a_weighted_merge_tell_its_entropy(folder):
    folders = tuple(folder / "experts" / name for name in ("plain", "twice"))

    def entropy(method, number=2):
        candidate = candidates.Candidate("x", folders[:number], method=method)
        return router_entropy.of(candidate, None, None)

    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert entropy(averages.Weighted(weights=(3.0, 1.0))) == pytest.approx(expected)
    assert entropy(averages.Uniform(), 1) == 0
    assert entropy(averages.Uniform(), 0) is None


def test_weights_of_a_pool_tell_its_entropy(folder):
    folders = tuple(folder / "experts" / name for name in ("plain", "twice"))
    pool = pooled_candidate.PooledCandidate("x", folders, weights=(0.75, 0.25))
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert router_entropy.of(pool, None, None) == pytest.approx(expected)


def test_weights_of_a_first_stage_tell_its_entropy_without_a_trace(folder):
    folders = tuple(folder / "experts" / name for name in ("plain", "twice"))
    mixed = routed_candidate.RoutedCandidate(
        "x", folders, router=token_routers.FirstStage(), weights=(0.75, 0.25)
    )
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert router_entropy.of(mixed, None, None) == pytest.approx(expected)
