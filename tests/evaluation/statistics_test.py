import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from elm_jax import errors
from elm_jax.evaluation import (
    estimates,
    rank_classification,
    result_store,
    results,
    statistics,
)


def column(values, ids=None):
    ids = np.arange(len(values)) if ids is None else ids
    return statistics.Column(np.asarray(ids), np.asarray(values, np.float64))


def interval(columns, **how):
    return estimates.estimate([columns], estimates.Draws(**how)).interval


def gap_of(columns, base, **how):
    estimate, base_estimate = (
        estimates.estimate([c], estimates.Draws(**how)) for c in (columns, base)
    )
    return (estimate - base_estimate).interval


def random_columns(*, num_rows=40, num_prompts=3, datasets=("a", "b"), seed=0):
    rng = np.random.default_rng(seed)
    return {
        (dataset, f"{dataset}_{prompt}"): column(100.0 * rng.integers(0, 2, num_rows))
        for dataset in datasets
        for prompt in range(num_prompts)
    }


def test_the_mean_is_over_datasets_of_means_over_prompts():
    columns = {
        ("a", "a_1"): column([100, 0]),
        ("a", "a_2"): column([100, 100]),
        ("b", "b_1"): column([0, 0, 0]),
    }
    of_mean = interval(columns)
    assert of_mean.mean == statistics.mean(columns) == 37.5
    assert of_mean.num_rows == 5
    assert of_mean.low <= of_mean.mean <= of_mean.high


def test_a_prompt_that_lacks_rows_is_averaged_over_the_rows_it_has():
    columns = {("a", "1"): column([100, 0, 0, 0]), ("a", "2"): column([100], ids=[2])}
    assert statistics.mean(columns) == 62.5


def test_the_same_seed_gives_the_same_interval_and_another_another():
    columns = random_columns()
    assert interval(columns) == interval(columns)
    assert len({interval(columns, seed=seed) for seed in range(4)}) > 1


def test_order_of_tasks_and_rows_changes_nothing():
    columns = random_columns()
    mixed = {}
    for key in reversed(columns):
        order = np.random.default_rng(0).permutation(len(columns[key].values))
        mixed[key] = statistics.Column(*(array[order] for array in columns[key]))
    assert interval(mixed) == interval(columns)


def test_a_datasets_draws_do_not_depend_on_other_datasets():
    alone = random_columns(datasets=("a",))
    constant = {("b", "b"): column([50.0] * 9)}
    both = interval(alone | constant)
    of_first = interval(alone)
    assert both.low == pytest.approx((of_first.low + 50.0) / 2)
    assert both.high == pytest.approx((of_first.high + 50.0) / 2)


def test_the_interval_of_one_prompt_is_that_of_the_binomial():
    values = column(100.0 * (np.arange(400) % 2))
    of_prompt = interval({("a", "a"): values}, num_resamples=4000)
    half = 1.96 * 100 * np.sqrt(0.25 / 400)
    assert of_prompt.low == pytest.approx(50 - half, abs=0.5)
    assert of_prompt.high == pytest.approx(50 + half, abs=0.5)


def test_equal_prompts_do_not_narrow_the_interval_but_independent_ones_do():
    rng = np.random.default_rng(0)
    values = 100.0 * rng.integers(0, 2, 200)
    same = {("a", str(i)): column(values) for i in range(10)}
    independent = random_columns(num_rows=200, num_prompts=10, datasets=("a",))
    width = {
        name: (of_columns := interval(columns)).high - of_columns.low
        for name, columns in {
            "one": {("a", "0"): column(values)},
            "same": same,
            "other": independent,
        }.items()
    }
    assert width["same"] == pytest.approx(width["one"])
    assert width["other"] < 0.5 * width["one"]


def test_a_95_percent_interval_holds_the_truth_about_95_times_in_100():
    held = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        row = rng.normal(size=(60, 1))
        table = row + rng.normal(size=(60, 3))  # prompts share what a row is like
        columns = {("a", str(i)): column(table[:, i]) for i in range(3)}
        of_columns = interval(columns, seed=trial, num_resamples=400)
        held += of_columns.low <= 0.0 <= of_columns.high
    assert 0.89 <= held / 200 <= 0.99


def test_a_paired_difference_of_equals_is_zero_without_width():
    columns = random_columns()
    gap = gap_of(columns, columns)
    assert (gap.mean, gap.low, gap.high) == (0.0, 0.0, 0.0)


@hypothesis.given(st.integers(0, 100))
def test_a_paired_difference_has_the_difference_of_means(seed):
    first, second = random_columns(seed=seed), random_columns(seed=seed + 1)
    gap = gap_of(first, second, num_resamples=10)
    expected = statistics.mean(first) - statistics.mean(second)
    assert gap.mean == pytest.approx(expected)


def test_a_paired_difference_is_sharper_than_two_intervals():
    columns = random_columns(num_rows=200)
    better = {
        key: column(np.where(np.arange(200) < 8, 100.0, values))
        for key, (_, values) in columns.items()
    }
    gap = gap_of(better, columns)
    assert gap.low > 0
    assert interval(better).low < interval(columns).high


@pytest.mark.parametrize(
    "different",
    [
        {("a", "a"): column([1.0, 2.0])},
        {("a", "a"): column([1.0, 2.0, 3.0], ids=[0, 1, 7])},
        {("a", "b"): column([1.0, 2.0, 3.0])},
        {},
    ],
)
def test_a_difference_of_different_rows_is_refused(different):
    with pytest.raises(errors.DataError, match="different rows of"):
        statistics.difference({("a", "a"): column([1.0, 2.0, 3.0])}, different)
    if different:
        with pytest.raises(errors.DataError, match="different rows"):
            gap_of({("a", "a"): column([1.0, 2.0, 3.0])}, different)


@pytest.mark.parametrize("empty", [{}, {("a", "a"): column([])}])
def test_nothing_has_no_mean(empty):
    with pytest.raises(errors.DataError, match="Found: (no results|a task without)"):
        interval(empty)


def test_one_row_has_a_mean_and_an_unknown_interval():
    of_row = interval({("a", "a"): column([100.0])})
    assert of_row.mean == 100.0
    assert np.isnan([of_row.low, of_row.high]).all()
    assert f"{of_row:.1f}" == "100.0"


def test_two_rows_have_an_interval():
    of_rows = interval({("a", "a"): column([0.0, 100.0])})
    assert (of_rows.mean, of_rows.low, of_rows.high) == (50.0, 0.0, 100.0)


def test_blocks_of_resamples_give_what_one_block_gives(monkeypatch):
    columns = random_columns()
    whole = interval(columns)
    monkeypatch.setattr(statistics, "_BLOCK_SIZE", 100)
    monkeypatch.setattr(estimates, "_BLOCK_SIZE", 100)
    assert interval(columns) == whole


def test_a_thousand_resamples_of_200_rows_and_10_prompts_are_quick():
    columns = random_columns(num_rows=200, num_prompts=10)
    start = time.perf_counter()
    interval(columns, num_resamples=1000)
    assert time.perf_counter() - start < 1.0  # about 10 ms on an idle machine


def test_columns_are_read_from_rows_by_dataset_and_task():
    arrays = {"example_ids": np.array([3, 5]), "f1": np.array([20.0, 40.0])}
    columns = statistics.columns([row("f1")], lambda row: arrays)
    assert list(columns) == [("quail", "quail_y")]
    assert statistics.mean(columns) == 30.0


def test_a_ranked_task_kept_in_a_store_gives_its_accuracy_back(tmp_path):
    outcome = rank_classification.RankOutcome(
        example_ids=np.array([4, 2, 9]),
        labels=np.array([0, 1, 0], np.int32),
        predictions=np.array([0, 0, 0], np.int32),
        scores=tuple(np.array([[0, -1]] * 3, np.float32)),
        answers=tuple(np.tile(np.arange(2), (3, 1))),
    )
    store = result_store.ResultStore(tmp_path / "rows.jsonl")
    store.record(
        row("accuracy"),
        run_id="r",
        values={"accuracy": outcome.accuracy},
        num_examples=3,
        per_example=outcome.per_example(),
    )
    columns = statistics.columns(store.rows(), store.per_example)
    assert statistics.mean(columns) == pytest.approx(store.rows()[0].value)
    assert statistics.mean(columns) == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("metrics", "ids", "message"),
    [
        (["f1", "f1"], [3, 5], "two rows"),
        (["bleu"], [3, 5], "no per-example values for bleu"),
        (["f1"], [3, 3], "an example that is there twice"),
    ],
)
def test_rows_that_make_no_columns_are_refused(metrics, ids, message):
    arrays = {"example_ids": np.array(ids), "f1": np.array([20.0, 40.0])}
    with pytest.raises(errors.DataError, match=message):
        statistics.columns([row(metric) for metric in metrics], lambda row: arrays)


def row(metric):
    return results.ResultRow(
        expert="dream_x",
        base_fingerprint="0123",
        task="quail_y",
        dataset="quail",
        prompt="y",
        split="test",
        protocol="elm",
        seed=0,
        checkpoint_step=100,
        run_id="r",
        metric=metric,
        value=30.0,
        num_examples=2,
    )
