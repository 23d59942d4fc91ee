import pytest

from elm_jax import errors
from elm_jax.runs import fleet_plan

GIB = 2**30
PARTS = {
    "frozen parameters": 10 * GIB,
    "trained parameters": GIB,
    "gradients": GIB,
    "optimiser": 2 * GIB,
    "activations": 3 * GIB,
}


def plan(num_slots, num_lanes, num_devices, num_model=1):
    return fleet_plan.describe(
        PARTS,
        num_slots=num_slots,
        num_lanes=num_lanes,
        num_devices=num_devices,
        num_model=num_model,
    )


def test_a_device_holds_the_base_once_and_its_experts():
    rows = plan(num_slots=5, num_lanes=1, num_devices=2)
    assert rows["fleet"].startswith("6 slots, 3 on each of 2 devices")
    # Base, three experts with moments, one at work.
    assert rows["bytes per device, about"].startswith("23.00 GiB")
    assert rows["bytes per further expert"].startswith("3072.00 MiB")
    assert "as it fits" in rows["base"]


def test_lanes_as_one_batch_need_gradients_and_activations_each():
    rows = plan(num_slots=16, num_lanes=8, num_devices=1)
    assert rows["bytes per device, about"].startswith("90.00 GiB")
    assert "8 as one batch" in rows["fleet"]


def test_a_split_base_takes_groups_of_devices():
    rows = plan(num_slots=4, num_lanes=1, num_devices=8, num_model=4)
    assert "2 on each of 2 groups of 4 devices" in rows["fleet"]
    assert "split over 4 devices" in rows["base"]
    with pytest.raises(errors.ConfigError, match="num_model = 9"):
        plan(num_slots=4, num_lanes=1, num_devices=8, num_model=9)
