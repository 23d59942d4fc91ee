"""Thresholds by coverage and risk, by hand."""

import pytest

from elm_jax.routing import abstaining

VALUES = (4.0, 3.0, 2.0, 2.0, 1.0)
LOSSES = (0.0, 1.0, 0.0, 0.0, 1.0)


def test_coverage_and_risk_of_each_threshold():
    assert abstaining.curve(VALUES, LOSSES) == (
        (4.0, 0.2, 0.0),
        (3.0, 0.4, 0.5),
        (2.0, 0.8, 0.25),  # both tasks of one value are taken, or neither
        (1.0, 1.0, 0.4),
    )


@pytest.mark.parametrize(
    ("most", "least"), [(0.0, 4.0), (0.3, 2.0), (0.4, 1.0), (1.0, 1.0)]
)
def test_the_greatest_coverage_with_a_low_enough_risk_is_taken(most, least):
    threshold = abstaining.least_for(VALUES, LOSSES, most_risk=most)
    assert threshold is not None
    assert threshold.least == least


def test_without_a_threshold_of_so_low_a_risk_there_is_none():
    assert abstaining.least_for([1.0, 2.0], [1.0, 1.0], most_risk=0.5) is None


def test_the_order_of_tasks_changes_nothing():
    turned = abstaining.curve(VALUES[::-1], LOSSES[::-1])
    assert turned == abstaining.curve(VALUES, LOSSES)
