"""Any two models are compared in a real browser, as Python compares them."""

import csv
import io
import json

import numpy as np
import pytest

from elm_jax.evaluation import comparisons, estimates, statistics
from elm_jax.reporting import page, pairs, report, text
from tests.reporting import browser

pytestmark = browser.needed
PROMPTS = {"quail": 3, "dream": 2, "copa": 1}
# Ends of the page's normal intervals are no further from those of 20,000 resamples than
# this part of half an interval, and half the step in which a mean of rows can change.
TOLERANCE = 0.04


def draw(rng, rate, *, scores=(0.0, 100.0)):
    """Answers of a model; a row is about as hard under all its prompts."""
    columns = {}
    for place, (dataset, number) in enumerate(PROMPTS.items()):
        ids = rng.permutation(1000 + np.arange(120 + 40 * place))
        ids = np.sort(ids)
        skill = rng.random(len(ids))
        for prompt in range(number):
            # The second prompt of the first dataset lacks some rows.
            row_slice = slice(None, None if (place, prompt) != (0, 1) else -17)
            noise = rng.random(len(ids))
            level = np.where(rng.random(len(ids)) < 0.6, skill, noise) < rate
            wrong = rng.integers(len(scores), size=len(ids))
            values = np.where(level, scores[-1], np.asarray(scores)[wrong * ~level])
            key = (dataset, f"{dataset}_p{prompt}")
            columns[key] = statistics.Column(ids[row_slice], values[row_slice])
    return columns


def pairs_of(models, *, bounds=(), experts=(), num_trainings=1):
    first = next(iter(models.values()))
    return pairs.Pairs(
        tasks=tuple(
            pairs.Task(key[0], key[1][-2:], key[1], column.example_ids)
            for key, column in sorted(first.items())
        ),
        models=tuple(
            pairs.Model(
                label,
                {key: column.values for key, column in columns.items()},
                is_expert=label in experts,
                is_bound=label in bounds,
                num_trainings=num_trainings,
            )
            for label, columns in models.items()
        ),
        first=[*models][0],
        second=[*models][1],
    )


@pytest.fixture(scope="module", name="tab")
def one_tab():
    with browser.opened() as tab:
        yield tab


@pytest.fixture(name="opened")
def opener(tab, tmp_path):
    def open_page(pair_tables):
        tab.problems, tab.requests = [], []
        text = page.render(report.Report(title="t", pairs=pair_tables))
        (tmp_path / "page.html").write_text(text)
        tab.open(tmp_path / "page.html")
        return tab

    yield open_page
    assert tab.problems == []
    assert tab.requests == [f"file://{tmp_path / 'page.html'}"]


def found_lines(tab):
    """Differences and ends of intervals, by (dataset, prompt), as they are saved."""
    lines = csv.reader(io.StringIO(tab.run("pairTables[0].csv()")))
    next(lines)
    return {
        tuple(line[:2]): [float(cell) if cell else None for cell in line[4:]]
        for line in lines
    }


def expected_lines(first, second, draws):
    """The same by the statistics of the tables."""

    def gap(keys):
        both = [
            estimates.estimate([{k: m[k] for k in keys}], draws)
            for m in (first, second)
        ]
        return comparisons.against(both[1], {"": both[0]})[""].gap

    gaps = {("mean", ""): gap([*first])}
    for dataset in PROMPTS:
        keys = sorted(key for key in first if key[0] == dataset)
        gaps[dataset, ""] = gap(keys)
        for key in keys:
            gaps[dataset, key[1][-2:]] = gap([key])
    return gaps


@pytest.mark.slow
@pytest.mark.parametrize(
    "scores", [(0.0, 100.0), (0.0, 100 / 3, 50.0, 100.0), tuple(range(0, 101, 5))]
)
def test_differences_and_intervals_are_those_of_the_tables(opened, scores):
    rng = np.random.default_rng(len(scores))
    first, second = (draw(rng, rate, scores=scores) for rate in (0.6, 0.45))
    second = {  # answers of two models of one base are alike
        key: statistics.Column(
            ids, np.where(rng.random(len(ids)) < 0.5, first[key].values, values)
        )
        for key, (ids, values) in second.items()
    }
    tab = opened(pairs_of({"one": first, "other": second}))
    shown = found_lines(tab)
    draws = estimates.Draws(num_resamples=20_000)
    expected = expected_lines(first, second, draws)
    assert shown.keys() == expected.keys()
    for place, gap in expected.items():
        difference, *ends = shown[place]
        assert difference == pytest.approx(gap.mean, abs=1e-4), place
        allowed = TOLERANCE * (gap.high - gap.low) / 2 + 0.5 * 100 / gap.num_rows
        assert ends == pytest.approx([gap.low, gap.high], abs=allowed), place


def test_intervals_for_all_lines_at_once_are_wider_by_their_number(opened):
    rng = np.random.default_rng(0)
    tab = opened(pairs_of({"one": draw(rng, 0.6), "other": draw(rng, 0.5)}))
    alone = found_lines(tab)
    tab.run("document.querySelector('.at-once').focus()")
    tab.press(" ")
    for place, (difference, low, high) in found_lines(tab).items():
        # Bonferroni's quantile for 10 lines, over that of one.
        assert high - low == pytest.approx(
            2.807034 / 1.959964 * (alone[place][2] - alone[place][1]), abs=1e-3
        )
        assert difference == alone[place][0]


def test_packed_answers_are_unpacked_in_the_browser_as_they_were(opened):
    rng = np.random.default_rng(1)
    models = {"a": {}, "b": {}}
    for number in (2, 3, 16, 100, 256):  # scores of 1, 2, 4, 8 and 8 bits
        scores = rng.uniform(0, 100, number)
        values = rng.permutation([*scores, *rng.choice(scores, 301)])
        ids = np.arange(len(values))
        models["a"]["d", f"d_p{number}"] = statistics.Column(ids, values)
        models["b"]["d", f"d_p{number}"] = statistics.Column(ids, values[::-1])
    tab = opened(pairs_of(models))
    data = "pairTables[0].data"
    for place, label in enumerate(("a", "b")):
        answers = f"unpackAnswers({data}.tasks, {data}.models[{place}])"
        unpacked = tab.run(f"{answers}.map((scores) => [...scores])")
        expected = [
            column.values.tolist() for _, column in sorted(models[label].items())
        ]
        assert unpacked == expected


def test_numbers_are_rounded_as_those_of_the_tables(opened):
    rng = np.random.default_rng(11)
    tab = opened(pairs_of({"one": draw(rng, 0.6), "other": draw(rng, 0.5)}))
    # Of 400 rows, each fourth mean lies half way between two tenths, such as 12.25.
    values = [*np.arange(-400, 401) / 4, *(100 * np.arange(1, 300) / 300)]
    shown = tab.run(f"{[float(v) for v in values]}.map((value) => shownNumber(value))")
    assert shown == [text.number(float(value)) for value in values]


def test_of_many_different_scores_two_decimals_are_kept(opened):
    rng = np.random.default_rng(2)
    columns = [
        {("d", "d_p1"): statistics.Column(np.arange(900), rng.uniform(0, 100, 900))}
        for _ in range(2)
    ]
    tab = opened(pairs_of({"a": columns[0], "b": columns[1]}))
    assert tab.run("pairTables[0].data.tasks[0].bits") == 16
    gap = statistics.mean(columns[0]) - statistics.mean(columns[1])
    assert found_lines(tab)["mean", ""][0] == pytest.approx(gap, abs=0.005)


def test_what_was_chosen_by_these_rows_has_no_interval_and_says_so(opened):
    rng = np.random.default_rng(3)
    models = {"oracle": draw(rng, 0.9), "base": draw(rng, 0.4)}
    tab = opened(pairs_of(models, bounds=("oracle",)))
    assert {(low, high) for _, low, high in found_lines(tab).values()} == {(None, None)}
    cautions = tab.run("document.querySelector('.cautions').innerText")
    assert "oracle was chosen by these rows: it is a bound" in cautions
    assert tab.run("document.querySelectorAll('.apart, .pair .range').length") == 0
    assert "oracle (a bound)" in tab.run("document.querySelector('select').innerText")


def test_the_best_of_several_experts_is_never_bold_and_says_why(opened):
    rng = np.random.default_rng(4)
    models = {"best": draw(rng, 0.9), "weak": draw(rng, 0.4), "base": draw(rng, 0.4)}
    tab = opened(pairs_of(models, experts=("best", "weak")))
    cautions_code = "document.querySelector('.cautions').innerText"
    assert "best has the highest mean of 2 experts on these rows" in tab.run(
        cautions_code
    )
    assert tab.run("document.querySelectorAll('.apart').length") == 0
    tab.run("pairTables[0].selects[0].value = 2; pairTables[0].show()")
    assert tab.run(cautions_code) == ""
    tab = opened(pairs_of(models))
    assert tab.run("document.querySelectorAll('.apart').length") > 3


def test_several_trainings_are_told(opened):
    rng = np.random.default_rng(5)
    models = {"one": draw(rng, 0.6), "other": draw(rng, 0.5)}
    tab = opened(pairs_of(models, num_trainings=3))
    cautions = tab.run("document.querySelector('.cautions').innerText")
    assert (
        "one is the mean of 3 trainings: these intervals are of rows alone" in cautions
    )


def test_rows_that_differ_alike_and_single_rows_have_no_interval(opened):
    columns = {
        label: {
            ("d", "d_p1"): statistics.Column(np.arange(5), np.full(5, score)),
            ("e", "e_p1"): statistics.Column(np.arange(1), np.full(1, score)),
        }
        for label, score in (("a", 100 / 3), ("b", 100.0))
    }
    tab = opened(pairs_of(columns))
    assert found_lines(tab) == {
        ("mean", ""): [-66.6667, None, None],
        **{
            (name, part): [-66.6667, None, None] for name in "de" for part in ("", "p1")
        },
    }


def test_tasks_that_one_of_two_lacks_are_left_out_and_with_them_the_means(opened):
    rng = np.random.default_rng(6)
    whole, another = draw(rng, 0.6), draw(rng, 0.5)
    part = {key: column for key, column in whole.items() if key[1] != "quail_p2"}
    tab = opened(pairs_of({"whole": whole, "part": part, "other": another}))
    lines = found_lines(tab)
    assert ("mean", "") not in lines
    assert {place for place in lines if place[0] == "quail"} == {
        ("quail", "p0"),
        ("quail", "p1"),
    }
    gap = (
        part["dream", "dream_p1"].values.mean()
        - whole["dream", "dream_p1"].values.mean()
    )
    assert lines["dream", "p1"][0] == pytest.approx(-gap)


def test_a_reader_swaps_two_and_folds_a_dataset_by_keys(opened):
    rng = np.random.default_rng(7)
    tab = opened(pairs_of({"one": draw(rng, 0.6), "other": draw(rng, 0.5)}))
    before = found_lines(tab)["mean", ""]
    tab.run("document.querySelector('.swap').focus()")
    tab.press("Enter")
    difference, low, high = found_lines(tab)["mean", ""]
    assert [-difference, -high, -low] == before
    shown = "[...document.querySelectorAll('.pair tbody tr')].length"
    assert tab.run(shown) == 10
    tab.run("document.querySelector('.pair tbody button').focus()")
    tab.press("Enter")
    assert tab.run(shown) == 9  # copa has one prompt
    assert tab.run("document.activeElement.innerText") == "copa"
    assert tab.run("document.activeElement.ariaExpanded") == "false"


def test_hostile_names_are_text(opened, hostile):
    rng = np.random.default_rng(8)
    tab = opened(pairs_of({hostile: draw(rng, 0.6), f"{hostile}2": draw(rng, 0.5)}))
    heads = "[...document.querySelectorAll('.pair thead th')].map((h) => h.innerText)"
    assert tab.run(heads)[1:3] == [hostile, f"{hostile}2"]
    assert tab.run("document.querySelectorAll('script').length") == 2


def test_what_would_make_a_page_too_large_is_left_out_and_told(monkeypatch):
    rng = np.random.default_rng(9)
    models = {f"m{i}": draw(rng, 0.5) for i in range(5)}
    drawn = pairs.draw(pairs_of(models, experts=[*models]))
    size = len(json.loads(drawn["data"])["models"][0]["answers"])
    monkeypatch.setattr(pairs, "MOST_CHARACTERS", 3 * size)
    assert pairs.draw(pairs_of(models))["left_out"] == 2
    assert len(json.loads(pairs.draw(pairs_of(models))["data"])["models"]) == 3


def test_a_reader_sorts_by_the_difference_and_opens_all_datasets(opened):
    rng = np.random.default_rng(10)
    tab = opened(pairs_of({"one": draw(rng, 0.6), "other": draw(rng, 0.5)}))
    names = "[...document.querySelectorAll('.pair tbody th')].map((h) => h.innerText)"
    as_they_come = tab.run(names)
    lines = found_lines(tab)
    for is_greatest_first in (True, False):
        tab.run("document.querySelector('.pair thead button').focus()")
        tab.press("Enter")
        expected = ["mean"]
        parts = {}
        for (dataset, prompt), (gap, *_) in lines.items():
            parts.setdefault(dataset, []).append((gap, prompt))
        del parts["mean"]
        sign = -1 if is_greatest_first else 1
        for dataset, prompts_of_dataset in sorted(
            parts.items(), key=lambda entry: sign * entry[1][0][0]
        ):
            prompts = sorted(prompts_of_dataset[1:], key=lambda entry: sign * entry[0])
            expected += [dataset, *(prompt for _, prompt in prompts)]
        assert tab.run(names) == expected
    tab.press("Enter")
    assert tab.run(names) == as_they_come
    tab.run("document.querySelector('.pairs .fold-all').click()")
    assert tab.run(names) == ["mean", *sorted(PROMPTS)]
    tab.run("document.querySelector('.pairs .fold-all').click()")
    assert tab.run(names) == as_they_come
