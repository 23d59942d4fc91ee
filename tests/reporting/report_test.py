import dataclasses

import pytest

from elm_jax.evaluation import results
from elm_jax.reporting import marks, page, report, tables


@pytest.fixture(name="rows")
def some_rows(row):
    return [
        row("base", "b", "p", 30.0),
        row("weak", "b", "p", 20.0),
        row("strong", "b", "p", 50.0),
        row("strong", "a", "q", 60.0),
        row("oracle", "b", "p", 99.0),
    ]


def test_a_heat_map_orders_experts_by_mean_and_tasks_by_dataset(rows):
    shown = report.heat_map(rows, title="t", chosen={"b_p": "weak"})
    assert shown.columns == (("a", "q"), ("b", "p"))
    assert shown.experts == ("strong", "weak")
    assert shown.values == ((60.0, 50.0), (None, 20.0))
    assert shown.baseline == (None, 30.0)
    assert shown.chosen == ("", "weak")
    assert [shown.mean(values) for values in shown.values] == [55.0, 20.0]


def test_an_experts_mean_is_over_datasets_of_means_over_prompts(row):
    scores = (("a", "p", 10.0), ("a", "q", 30.0), ("b", "r", 60.0))
    shown = report.heat_map([row("e", *score) for score in scores], title="t")
    assert shown.by_dataset(shown.values[0]) == {"a": 20.0, "b": 60.0}
    assert shown.mean(shown.values[0]) == 40.0
    assert shown.mean(shown.baseline) is None


def test_two_tasks_with_one_prompts_name_are_two_columns(row):
    rows = [row("e", "a", "p", 10.0), row("base", "a", "p", 20.0)]
    of_another_task = [
        dataclasses.replace(r, task="a_other", value=r.value + 60) for r in rows
    ]
    shown = report.heat_map([*rows, *of_another_task], title="t")
    assert shown.columns == (("a", "p"), ("a", "p"))
    assert shown.values == ((70.0, 10.0),)
    assert shown.baseline == (80.0, 20.0)
    assert shown.mean(shown.values[0]) == 40.0


def test_a_mean_over_fewer_tasks_is_told(row):
    full = [row("e", "a", "p", 10.0), row("e", "a", "q", 10.0), row("e", "b", "p", 1.0)]
    shown = report.heat_map(full, title="t")
    assert shown.legend == ()
    shown = report.heat_map([*full, row("f", "a", "q", 90.0)], title="t")
    assert shown.legend == (marks.PART_LEGEND,)
    table = tables.heat_map(shown)
    assert table.rows[1:] == (
        ("f", "90.0 (p)", "–", "90.0 (p)"),
        ("e", "10.0", "1.0", "5.5"),
    )
    html = page.render(report.Report(title="t", heat_maps=(shown,)))
    assert '<td class="start">90.0<sup>p</sup></td>' in html
    assert '<td class="start">5.5</td>' in html
    assert marks.PART_LEGEND in html


def test_strategies_are_no_experts(rows):
    assert "oracle" in results.STRATEGIES
    assert "oracle" not in report.heat_map(rows, title="t").experts


def test_no_rows_make_an_empty_map():
    shown = report.heat_map([], title="t")
    assert (shown.columns, shown.experts, shown.values) == ((), (), ())


def test_figures_are_shown_with_intervals_and_signs():
    gap = results.Interval(2.0, -1.0, 5.0)
    figures = report.Figures(
        "t", ("a", "b", "c", "d"), (("way", (gap, report.Signed(gap), "<5", None)),)
    )
    table = tables.figures(figures)
    assert table.rows == (("way", "2.0\n−1.0–5.0", "+2.0\n−1.0 to +5.0", "<5", "–"),)
    html = page.render(report.Report(title="t", figures=(figures,)))
    assert "<td>+2.0<small>−1.0 to +5.0</small></td>" in html
    assert "<td>&lt;5</td>" in html
