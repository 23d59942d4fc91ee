import numpy as np
import pytest

from elm_jax.evaluation import controls, statistics


def column(values, ids=(0, 1)):
    return statistics.Column(np.array(ids), np.array(values, np.float64))


def test_a_random_expert_has_the_mean_of_all_on_every_row():
    experts = {
        "a": {("d", "t"): column([100.0, 0.0])},
        "b": {("d", "t"): column([100.0, 100.0])},
    }
    mean = controls.average(experts)
    np.testing.assert_array_equal(mean["d", "t"].values, [100.0, 50.0])
    np.testing.assert_array_equal(experts["a"]["d", "t"].values, [100.0, 0.0])


def test_there_is_no_mean_over_experts_with_other_rows():
    columns = {("d", "t"): column([100.0, 0.0])}
    assert controls.average({"a": columns, "b": {("d", "u"): column([0, 0])}}) is None
    of_other_rows = {("d", "t"): column([100.0, 0.0], ids=(0, 2))}
    assert controls.average({"a": columns, "b": of_other_rows}) is None


def test_equals_share_their_ranks():
    scores = {
        "a": {("d", "t"): 90.0, ("e", "u"): 10.0},
        "b": {("d", "t"): 90.0, ("e", "u"): 20.0},
        "c": {("d", "t"): 50.0, ("e", "u"): 30.0},
    }
    ranks = controls.rank({("d", "t"): "a", ("e", "u"): "a"}, scores)
    assert ranks == (2.25, 2.0, 1, 2, 3)


# Three datasets, the second of two prompts; a fits d, b fits e, c fits f.
TASKS = (("d", "d1"), ("e", "e1"), ("e", "e2"), ("f", "f1"))
SCORES = {
    name: {key: 90.0 if key[0] == fits else 30.0 for key in TASKS}
    for name, fits in zip("abc", "def", strict=True)
}
FITTING = {key: {"d": "a", "e": "b", "f": "c"}[key[0]] for key in TASKS}


def test_choices_that_fit_score_more_than_shuffled_ones():
    control = controls.shuffled(FITTING, SCORES)
    assert control is not None
    assert (control.score, control.num_draws) == (90.0, 6)
    assert control.p_value == pytest.approx(1 / 6)  # no other order scores as much
    # Two of six orders keep no dataset's choice, three keep one.
    assert control.mean == pytest.approx((2 * 30 + 3 * 50 + 90) / 6)
    assert (control.low, control.high) == (30.0, pytest.approx(90 - 40 * 0.125))


def test_a_choice_that_is_good_everywhere_is_as_good_when_shuffled():
    scores = {"a": dict.fromkeys(TASKS, 80.0), "b": dict.fromkeys(TASKS, 10.0)}
    control = controls.shuffled(dict.fromkeys(TASKS, "a"), scores)
    assert control == (80.0, 80.0, 80.0, 80.0, 1.0, 6)
    assert controls.random_experts(dict.fromkeys(TASKS, "a"), scores).p_value < 0.2


def test_one_dataset_has_nothing_to_shuffle_with():
    chosen = {("e", "e1"): "a", ("e", "e2"): "b"}
    assert controls.shuffled(chosen, SCORES) is None
    assert controls.elsewhere(chosen, {}) is None


def test_of_many_datasets_some_orders_are_tried():
    tasks = [(f"d{i}", "t") for i in range(9)]
    chosen = {key: key[0] for key in tasks}
    scores = {d: {key: float(key[0] == d) for key in tasks} for d, _ in tasks}
    control = controls.shuffled(chosen, scores)
    assert control is not None
    assert control.num_draws == 10_000
    assert control.p_value == pytest.approx(1e-4)  # the choice itself is one of them
    assert control.mean == pytest.approx(1 / 9, abs=0.01)


def test_a_random_expert_for_each_dataset_is_one_for_all_its_prompts():
    control = controls.random_experts(FITTING, SCORES)
    assert control.score == 90.0
    assert control.mean == pytest.approx(50.0, abs=1.0)
    assert control.p_value == pytest.approx(1 / 27, abs=0.01)


def test_experts_of_other_datasets_are_averaged_row_by_row():
    experts = {
        "a": {("d", "t"): column([100.0, 0.0]), ("e", "u"): column([40.0, 0.0])},
        "b": {("d", "t"): column([60.0, 20.0]), ("e", "u"): column([10.0, 10.0])},
    }
    chosen = {("d", "t"): "a", ("e", "u"): "b"}
    means = controls.elsewhere(chosen, experts)
    assert means is not None
    np.testing.assert_array_equal(means["d", "t"].values, [60.0, 20.0])
    np.testing.assert_array_equal(means["e", "u"].values, [40.0, 0.0])
    experts["b"]["d", "t"] = column([60.0, 20.0], ids=(0, 2))
    assert controls.elsewhere(chosen, experts) is None
