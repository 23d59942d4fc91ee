import numpy as np

from elm_jax.evaluation import controls, statistics


def column(values, ids=(0, 1)):
    return statistics.Column(np.array(ids), np.array(values, np.float64))


def test_a_random_expert_has_the_mean_of_all_on_every_row():
    experts = {
        "a": {("d", "t"): column([100.0, 0.0])},
        "b": {("d", "t"): column([100.0, 100.0])},
    }
    found = controls.average(experts)
    np.testing.assert_array_equal(found["d", "t"].values, [100.0, 50.0])
    np.testing.assert_array_equal(experts["a"]["d", "t"].values, [100.0, 0.0])


def test_there_is_no_mean_over_experts_with_other_rows():
    one = {("d", "t"): column([100.0, 0.0])}
    assert controls.average({"a": one, "b": {("d", "u"): column([0, 0])}}) is None
    other = {("d", "t"): column([100.0, 0.0], ids=(0, 2))}
    assert controls.average({"a": one, "b": other}) is None


def test_equals_share_their_ranks():
    scores = {
        "a": {("d", "t"): 90.0, ("e", "u"): 10.0},
        "b": {("d", "t"): 90.0, ("e", "u"): 20.0},
        "c": {("d", "t"): 50.0, ("e", "u"): 30.0},
    }
    found = controls.rank({("d", "t"): "a", ("e", "u"): "a"}, scores)
    assert found == (2.25, 2.0, 1, 2, 3)
