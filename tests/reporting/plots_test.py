import hypothesis
import pytest
from hypothesis import strategies as st

from elm_jax.reporting import plots, report

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1)


@hypothesis.given(VALUES)
def test_an_axis_holds_all_values_between_a_few_round_ticks(values):
    axis = plots.axis(values)
    assert 2 <= len(axis.ticks) <= 8
    for value in (*values, *axis.ticks):
        assert -0.01 <= axis.place(value) <= 100.01


def test_a_line_runs_from_the_first_step_to_the_last_greatest_loss_on_top():
    curve = report.Curve("e", ((0, 3.0), (10, 2.0), (20, 1.0)))
    assert plots.line_paths(curve)[0] == "M0.0 0.0L50.0 50.0L100.0 100.0"


def test_a_long_curve_has_few_points():
    curve = report.Curve("e", tuple((i, 1.0 / (i + 1)) for i in range(10_000)))
    path = plots.line_paths(curve)[0]
    assert path.count("L") == 119
    assert path.startswith("M0.0 0.0")


@pytest.mark.parametrize(
    "points", [(), ((0, 1.0),), ((0, float("nan")), (1, float("inf")))]
)
def test_a_curve_without_a_line_has_no_path(points):
    assert plots.line_paths(report.Curve("e", points)) == ("", "")


def test_a_loss_that_never_changes_is_a_flat_line():
    curve = report.Curve("e", ((0, 1.0), (5, 1.0)))
    assert plots.line_paths(curve)[0] == "M0.0 100.0L100.0 100.0"


def test_two_ways_to_train_an_expert_are_drawn_in_one_frame():
    curve = report.Curve("e", ((0, 3.0), (10, 1.0)), ((0, 2.0), (20, 1.0)))
    path, path_compared = plots.line_paths(curve)
    assert path == "M0.0 0.0L50.0 100.0"
    assert path_compared == "M0.0 50.0L100.0 100.0"
