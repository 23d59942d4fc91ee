import numpy as np
import pytest
from scipy import stats

from elm_jax import errors
from elm_jax.evaluation import comparisons, estimates, statistics


def scored(rng, rate=0.5, *, num_rows=200, prompts=(2, 1)):
    return {
        (f"d{place}", f"d{place}_{prompt}"): statistics.Column(
            np.arange(num_rows), 100.0 * (rng.random(num_rows) < rate)
        )
        for place, number in enumerate(prompts)
        for prompt in range(number)
    }


def scores(many):
    draws = estimates.Draws()
    return {
        name: estimates.estimate([columns], draws) for name, columns in many.items()
    }


def ways(rates, *, seed=0, **how):
    rng = np.random.default_rng(seed)
    return {f"w{i}": scored(rng, rate, **how) for i, rate in enumerate(rates)}


def test_simultaneous_intervals_are_wider_the_more_there_are():
    base, *others = scores(ways([0.5] * 21)).values()
    alone = comparisons.against(base, {"0": others[0]})["0"]
    many = comparisons.against(
        base, {str(i): other_way for i, other_way in enumerate(others)}
    )
    assert many["0"].gap == alone.gap
    assert alone.simultaneous.high == pytest.approx(alone.gap.high, abs=0.5)
    width = [
        against_base.simultaneous.high - against_base.simultaneous.low
        for against_base in (alone, many["0"])
    ]
    assert width[1] > 1.3 * width[0]
    assert many["0"].least > alone.least > 0


def test_a_way_on_other_rows_is_no_comparison():
    draws = estimates.Draws()
    rng = np.random.default_rng(0)
    base = estimates.estimate([scored(rng)], draws)
    on_other_rows = estimates.estimate([scored(rng, num_rows=199)], draws)
    with pytest.raises(errors.DataError, match="different rows"):
        comparisons.against(base, {"other": on_other_rows})


def test_only_ways_that_nothing_beats_are_stressed_and_none_where_all_are_alike():
    stressed = comparisons.not_worse([*scores(ways([0.9, 0.5, 0.88])).values()])
    assert stressed == [{0, 2}] * 3
    alike = comparisons.not_worse([*scores(ways([0.5, 0.5, 0.5])).values()])
    assert alike == [set()] * 3
    assert comparisons.not_worse([]) == []


@pytest.mark.parametrize(("num_rows", "is_shown"), [(2, False), (30, True)])
def test_a_few_rows_without_any_error_show_nothing(num_rows, is_shown):
    certain = scores(ways([1.0, 0.0], num_rows=num_rows, prompts=(1,)))
    assert (comparisons.not_worse([*certain.values()])[-1] == {0}) is is_shown


def test_the_sign_test_of_one_prompt_is_mcnemars_exact_one():
    better, worse = ways([0.6, 0.4], prompts=(1,)).values()
    right_of_better, right_of_worse = (
        better["d0", "d0_0"].values > 0,
        worse["d0", "d0_0"].values > 0,
    )
    wins, losses = (
        int((right_of_better & ~right_of_worse).sum()),
        int((~right_of_better & right_of_worse).sum()),
    )
    sign_test = comparisons.sign_test(better, worse)
    assert (sign_test.wins, sign_test.losses) == (wins, losses)
    exact = stats.binomtest(wins, wins + losses).pvalue
    assert sign_test.p_value == pytest.approx(exact)
    assert comparisons.sign_test(better, better) == (0, 0, 1.0)


def test_a_row_counts_once_in_the_sign_test_however_many_prompts_it_has():
    rng = np.random.default_rng(0)
    columns = scored(rng, num_rows=9, prompts=(8,))
    better = {
        key: statistics.Column(ids, values + 10.0)
        for key, (ids, values) in columns.items()
    }
    assert comparisons.sign_test(better, columns)[:2] == (9, 0)


def test_the_least_difference_is_found_in_eight_of_ten_worlds():
    sizes = {"a": 400, "b": 100}
    gap = comparisons.least_difference(sizes, differ=0.2)
    rng = np.random.default_rng(0)
    # Of rows that differ, so many more are won that the mean is `gap` points apart.
    means, variances = [], []
    for number in sizes.values():
        up, down = 0.1 + gap / 200, 0.1 - gap / 200
        drawn = rng.choice([100.0, -100.0, 0.0], (4000, number), p=[up, down, 0.8])
        means.append(drawn.mean(axis=1))
        variances.append(drawn.var(axis=1) / number)
    error = np.sqrt(np.sum(variances, axis=0)) / 2
    share = np.mean(np.mean(means, axis=0) > 1.96 * error)
    assert share == pytest.approx(0.8, abs=0.02)
