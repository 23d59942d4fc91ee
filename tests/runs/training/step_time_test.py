"""The least time of a step, held against counts by hand."""

import dataclasses

import pytest

from elm_jax.compiling import targets
from elm_jax.runs.training import step_time

# A device of easy numbers: ten operations, five bytes and two bytes in a second.
DEVICE = dataclasses.replace(
    targets.find("v5litepod-4"), peak_flops=10.0, bandwidth=5.0, link_bandwidth=2.0
)
WHOLE = step_time.Work(flops=100.0, param_bytes=20, trained_bytes=40)
# 100 / 10 s of products; parameters twice, gradients once, and 7 * 40 by the optimiser.
ALONE = 10 + (2 * 20 + 40 + 7 * 40) / 5


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ALONE),
        ({"num_reads": 3}, ALONE + 20 / 5),
        # A part reads parameters again, and its gradients and their sum twice.
        ({"num_parts": 2}, 10 + (2 * (2 * 20 + 3 * 40) + 7 * 40) / 5),
        # A ring of four sends three quarters of all gradients twice.
        ({"num_devices": 4}, ALONE + 0.75 * 2 * 40 / 2),
        # Parts of parameters come twice, gradients go once; a quarter is updated.
        (
            {"num_devices": 4, "is_split": True},
            10 + (2 * 20 + 40 + 7 * 10) / 5 + 0.75 * (2 * 20 + 40) / 2,
        ),
        (
            {"num_devices": 4, "num_parts": 2},
            10 + (2 * (2 * 20 + 3 * 40) + 7 * 40) / 5 + 2 * 0.75 * 2 * 40 / 2,
        ),
    ],
)
def test_time_is_of_products_memory_and_links(changes, expected):
    work = dataclasses.replace(WHOLE, **changes)
    assert step_time.least_secs(work, DEVICE) == pytest.approx(expected, rel=1e-12)


def test_a_device_of_an_unknown_kind_counts_as_an_h100():
    secs = step_time.least_secs(WHOLE, None)
    assert secs == step_time.least_secs(WHOLE, targets.find("h100"))
