import pytest

from elm_jax.evaluation import results
from elm_jax.reporting import report


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
    one = report.heat_map(rows, title="t", retrieved={"b_p": "weak"})
    assert one.columns == (("a", "q"), ("b", "p"))
    assert one.experts == ("strong", "weak")
    assert one.values == ((60.0, 50.0), (None, 20.0))
    assert one.baseline == (None, 30.0)
    assert one.retrieved == ("", "weak")
    assert one.best(1) == 50.0
    assert [one.mean(values) for values in one.values] == [55.0, 20.0]


def test_an_experts_mean_is_over_datasets_of_means_over_prompts(row):
    scores = (("a", "p", 10.0), ("a", "q", 30.0), ("b", "r", 60.0))
    one = report.heat_map([row("e", *score) for score in scores], title="t")
    assert one.by_dataset(one.values[0]) == {"a": 20.0, "b": 60.0}
    assert one.mean(one.values[0]) == 40.0
    assert one.mean(one.baseline) is None


def test_strategies_are_no_experts(rows):
    assert "oracle" in results.STRATEGIES
    assert "oracle" not in report.heat_map(rows, title="t").experts


def test_no_rows_make_an_empty_map():
    one = report.heat_map([], title="t")
    assert (one.columns, one.experts, one.values) == ((), (), ())


def test_reference_rows_are_never_the_best():
    rows = (
        report.HeadlineRow("base", (results.Interval(40.0), None)),
        report.HeadlineRow("oracle", (results.Interval(80.0), None), is_reference=True),
    )
    headline = report.Headline(("a", "b"), rows)
    assert headline.best(0) == 40.0
    assert headline.best(1) is None
