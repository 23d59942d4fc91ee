"""Where a fleet of T5-XL prompt experts lies on devices of several sizes."""

import dataclasses

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import cost, t5
from elm_jax.peft import bottleneck, expert_parts
from elm_jax.runs.training import fleet_layout, fleet_plan, machine
from elm_jax.training import optimizers
from tests.runs.training.xl import NUM_PROMPT, XL

GIB = 2**30


@pytest.fixture(scope="module")
def fleet():
    model = t5.T5(XL, bottleneck.Bottleneck(reduction_factor=32).adapter_fn(2048))
    shapes = t5.param_shapes(model)
    trainable, frozen = trees.split(shapes, expert_parts.PROMPT_EXPERT)
    return fleet_layout.Needs(
        model=model,
        batch=cost.BatchShape(batch_size=8, inputs_length=512, targets_length=128),
        tx=optimizers.AdamW().make(10),
        trainable=trainable,
        frozen=frozen,
        num_slots=32,
        num_lanes=4,
    )


def choose(fleet, gib, num_devices=8, **options):
    memory = None if gib is None else int(gib * GIB)
    return fleet_plan.choose_layout(
        fleet, num_devices=num_devices, memory_bytes=memory, **options
    )


@pytest.mark.slow
def test_a_base_that_fits_is_whole_on_each_device_and_experts_are_spread(fleet):
    layout = choose(fleet, 80)
    assert (layout.axis_rules, layout.num_model) == ("data", 1)
    assert layout.why.startswith("experts over 8 devices, the base whole on each")
    assert "of 80.00 GiB" in layout.why
    # 32 experts over 8 devices: each keeps four, and takes their steps together. Only
    # the compilers of TPUs need no copies of the lanes' parameters for that.
    assert layout.bytes_per_device["trained parameters"] == 4 * (4 + 4) * NUM_PROMPT
    on_tpus = choose(dataclasses.replace(fleet, platform="tpu"), 80)
    assert on_tpus.bytes_per_device["trained parameters"] == 4 * 4 * NUM_PROMPT
    assert layout.bytes_per_device["gradients"] == 4 * 4 * NUM_PROMPT


@pytest.mark.slow
def test_a_base_that_does_not_fit_is_split_over_as_few_devices_as_hold_it(fleet):
    whole = sum(fleet.bytes_per_device(8, 1).values()) / GIB
    layout = choose(fleet, whole)  # a tenth of the memory is not for the plan
    assert layout.axis_rules == "data_model"
    assert layout.num_model > 1
    split = fleet.bytes_per_device(8, layout.num_model)
    assert sum(split.values()) <= 0.9 * whole * GIB
    assert f"split over {layout.num_model} devices" in layout.why
    assert f"over {layout.num_model // 2} it would be" in layout.why


def test_one_lane_at_a_time_needs_the_activations_of_one(fleet):
    serial = dataclasses.replace(fleet, num_lanes=1)
    in_turn, at_once = (choose(each, None).bytes_per_device for each in (serial, fleet))
    assert 4 * in_turn["activations"] == at_once["activations"]
    assert in_turn["optimiser"] == at_once["optimiser"]


def test_as_many_lanes_are_taken_as_fit(fleet):
    of_one, of_two, of_four = (
        sum(fleet.bytes_per_device(8, 1, num_lanes=lanes).values()) / GIB
        for lanes in (1, 2, 4)
    )
    for gib, lanes in ((of_four, 4), (of_two, 2), (of_one, 1)):
        layout = choose(fleet, gib / 0.9 + 0.1)
        assert (layout.num_model, layout.num_lanes) == (1, lanes)
        assert layout.bytes_per_device == fleet.bytes_per_device(8, 1, num_lanes=lanes)
        assert ("4 lanes would take" in layout.why) == (lanes < 4)
    with pytest.raises(errors.ConfigError, match=r"Fleet.lanes to 2, or to 0"):
        choose(fleet, of_two / 0.9 + 0.1, needs_all_lanes=True)
    assert choose(fleet, of_four / 0.9 + 0.1, needs_all_lanes=True).num_lanes == 4


@pytest.mark.slow
def test_a_base_is_split_over_as_many_devices_as_asked(fleet):
    layout = choose(fleet, 80, num_model=4)
    assert (layout.axis_rules, layout.num_model) == ("data_model", 4)
    assert layout.bytes_per_device == fleet.bytes_per_device(8, 4, num_lanes=4)
    with pytest.raises(errors.ConfigError, match="fleet that takes"):
        choose(fleet, 1, num_model=4)
    with pytest.raises(errors.ConfigError, match="3"):
        choose(fleet, 80, num_devices=6, num_model=3)


def test_room_for_a_state_that_is_saved_is_counted(fleet):
    sizes = fleet.bytes_per_device(8, 1)
    # Parameters and two moments in float32, and a few counts.
    assert sizes["a state to be saved"] == pytest.approx(12 * NUM_PROMPT, rel=1e-5)


def test_a_memory_that_nobody_knows_is_taken_for_enough(fleet):
    layout = choose(fleet, None)
    assert layout.num_model == 1
    assert "bytes_per_device" not in vars(layout)  # a start does not wait for them
    assert layout.bytes_per_device == fleet.bytes_per_device(8, 1, num_lanes=4)
    assert "device_memory_gib" in layout.why


@pytest.mark.slow
def test_a_fleet_that_fits_in_no_way_is_refused_with_what_takes_the_memory(fleet):
    with pytest.raises(errors.ConfigError, match="frozen parameters") as caught:
        choose(fleet, 2)
    assert "Train fewer experts at a time" in str(caught.value)


def test_a_cpu_does_not_tell_its_memory_and_may_be_told():
    assert machine.device_memory() is None
    assert machine.device_memory(1.5) == 1.5 * GIB


@pytest.mark.parametrize(
    ("others", "expected"), [((40, 24.5), 24.5), ((32,), 30), ((40, 0), None)]
)
def test_processes_plan_for_the_least_memory_of_all(monkeypatch, others, expected):
    """Else those that train one expert together could choose other numbers of parts."""
    assert machine.this_machine(30.0).memory_bytes == 30 * GIB

    def exchange(numbers):
        rows = [[int(1024 * gib)] for gib in others]
        return np.array([numbers, *rows], np.int32)

    monkeypatch.setattr(machine.processes, "exchange", exchange)
    least = machine.this_machine(30.0).memory_bytes
    assert least == (expected and expected * GIB)
