"""`remat = "fit"`: the fastest recomputation that fits, by plan."""

import dataclasses

import pytest

from elm_jax import errors
from elm_jax.model import config
from elm_jax.runs import train
from elm_jax.runs.run import show_size
from elm_jax.runs.training import cost_table, fitting, fleet_plan, machine
from tests.runs.compiling.built import SMALL, build

DATASET, PROMPT = "gin/t5/dataset_experts.gin", "gin/t5/prompt_experts.gin"


def spec_of(file, remat="fit", bindings=(), **changes):
    """Returns a training of T5-small that needs no base."""
    run, shape = build(train.Train, file, SMALL, bindings=bindings)
    return dataclasses.replace(
        run.spec(),
        base_dir=None,
        model=shape,
        execution=config.Execution(remat=remat),
        **changes,
    )


def with_memory(num_bytes, num_devices=1):
    return machine.Machine(
        num_devices=num_devices,
        memory_bytes=None if num_bytes is None else int(num_bytes),
        is_cpu=False,
        num_processes=1,
        platform="gpu",
    )


@pytest.fixture(scope="module")
def needed():
    """Returns the bytes of a dataset expert's step by remat, from most to least."""
    everything = with_memory(2**50)
    sizes = {}
    for remat in config.REMATS:
        spec = spec_of(DATASET, remat)
        sizes[remat] = fitting.solo_bytes(spec, everything, 1)
    return sizes


@pytest.mark.slow
def test_less_memory_makes_more_be_computed_again(needed):
    assert needed["none"] > needed["products"] > needed["layer"]
    for remat, size in needed.items():
        just_enough = with_memory(1.001 * size / fleet_plan.USABLE_SHARE)
        plan = fitting.fitted(spec_of(DATASET), just_enough, 1)
        assert plan.spec.execution.remat == remat
        assert plan.spec == spec_of(DATASET, remat)
        assert plan.why.startswith(f"'{remat}' takes")


@pytest.mark.slow
def test_where_nothing_fits_each_size_is_told(needed):
    too_little = with_memory(0.9 * needed["layer"])
    with pytest.raises(errors.ConfigError) as caught:
        fitting.fitted(spec_of(DATASET), too_little, 1)
    for remat, size in needed.items():
        assert f"{remat!r} {show_size(size)}" in str(caught.value)


def test_devices_that_do_not_tell_their_memory_are_refused():
    with pytest.raises(errors.ConfigError, match="device_memory_gib"):
        fitting.fitted(spec_of(PROMPT), with_memory(None), 1)


def test_what_a_training_says_itself_stays():
    spec = spec_of(PROMPT, "layer")
    assert fitting.fitted(spec, with_memory(None), 1) == (spec, "")


@pytest.mark.slow
def test_a_fleet_takes_lanes_before_it_saves_operations():
    layouts = {
        remat: fleet_plan.layout_of(spec_of(PROMPT, remat), with_memory(2**50))
        for remat in config.REMATS
    }
    sizes = {r: sum(each.bytes_per_device.values()) for r, each in layouts.items()}
    memory = with_memory(1.001 * sizes["layer"] / fleet_plan.USABLE_SHARE)
    without = fleet_plan.layout_of(spec_of(PROMPT, "none"), memory)
    spec = fitting.fitted(spec_of(PROMPT), memory, 1).spec
    layout = fleet_plan.layout_of(spec, memory)
    assert spec.execution.remat == "layer"
    assert layout.num_lanes == layouts["layer"].num_lanes > without.num_lanes


def way(name, num_bytes, secs, **order):
    return fitting.Way(
        spec=None, name=name, num_bytes=num_bytes, flops=1.0, secs=secs, **order
    )


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (99, "many lanes"),
        (39, "fast"),
        (29, "small"),  # as fast as what is larger
        (14, "small, too"),
        (9, "shares a base"),
        (4, None),
    ],
)
def test_of_what_fits_fewest_devices_most_lanes_and_least_time_win(memory, expected):
    ways = [
        way("in no layout", None, 0.1),
        way("many lanes", 40, 9.0, missing_lanes=-8),
        way("shares a base", 5, 0.1, num_model=2, missing_lanes=-8),
        way("fast", 30, 1.0),
        way("small", 15, 2.0),
        way("as fast and larger", 20, 2.0),
        way("small, too", 10, 3.0),
    ]
    chosen = fitting.fastest(ways, memory)
    assert (chosen and chosen.name) == expected


ALONE = ("placement.Placement.axis_rules = 'data'", "NUM_FSDP = 1")
PARTS = ("options.Batching.num_parts = 0",)
FIT_ALL = ("placement.Placement.axis_rules = 'fit'", *PARTS)


@pytest.mark.slow
def test_a_batch_is_taken_in_the_fewest_parts_that_fit(needed):
    spec = spec_of(DATASET, "layer", bindings=(*ALONE, *PARTS))
    sizes = {}
    for count in (1, 2, 4, 128):
        batching = dataclasses.replace(spec.batching, num_parts=count)
        changed = dataclasses.replace(spec, batching=batching)
        sizes[count] = fitting.solo_bytes(changed, with_memory(2**50), 1)
    assert sizes[1] > sizes[2] > sizes[4] > sizes[128]
    for count, size in sizes.items():
        memory = with_memory(1.0001 * size / fleet_plan.USABLE_SHARE)
        plan = fitting.fitted(spec, memory, 1)
        assert plan.spec.batching.num_parts == count
        assert plan.spec.batch_size == spec.batch_size  # what trains is the same
        parts = "whole" if count == 1 else f"in {count} parts"
        assert plan.why.startswith(f"the batch {parts} takes")
    with pytest.raises(errors.ConfigError, match="(?s)fits on .*in 128 parts"):
        fitting.fitted(spec, with_memory(0.9 * sizes[128]), 1)


@pytest.mark.slow
def test_packed_rows_take_the_memory_of_rows_twice_as_long(needed):
    packed = spec_of(DATASET, bindings=("options.Batching.pack = True",))
    rows, longest = spec_of(DATASET).longest_batch(), packed.longest_batch()
    assert longest.batch_size == rows.batch_size
    assert longest.inputs_length == 2 * rows.inputs_length
    assert longest.targets_length == 2 * rows.targets_length
    enough_unpacked = with_memory(1.001 * needed["none"] / fleet_plan.USABLE_SHARE)
    spec = fitting.fitted(packed, enough_unpacked, 1).spec
    assert spec.execution.remat != "none"  # which would fit if rows were not packed
    assert fitting.solo_bytes(spec, enough_unpacked, 1) <= 1.001 * needed["none"]


@pytest.mark.slow
def test_parts_are_taken_before_layers_are_computed_again(needed):
    """They read parameters again, which is little beside the products of a batch."""
    spec = spec_of(DATASET, bindings=(*ALONE, *PARTS))
    memory = with_memory(1.01 * needed["layer"] / fleet_plan.USABLE_SHARE)
    plan = fitting.fitted(spec, memory, 1)
    assert plan.spec.execution.remat == "products"
    assert plan.spec.batching.num_parts > 1
    for text in ("'none', the batch in ", "'layer', the batch whole"):
        assert text in plan.why


@pytest.mark.slow
def test_parameters_are_split_where_they_do_not_fit_whole():
    spec = spec_of(DATASET, "layer", bindings=FIT_ALL)
    roomy = fitting.fitted(spec, with_memory(2**40, 8), 8).spec
    whole = dataclasses.replace(
        spec,
        placement=dataclasses.replace(roomy.placement, axis_rules="data", num_fsdp=1),
        batching=dataclasses.replace(spec.batching, num_parts=16),
    )
    least = fitting.solo_bytes(whole, with_memory(2**40, 8), 8)
    plan = fitting.fitted(spec, with_memory(0.9 * least / 0.9, 8), 8)
    assert plan.spec.placement.axis_rules == "fsdp"
    assert plan.spec.placement.num_fsdp == -1
    assert "rules 'data', the batch in 16 parts" in plan.why
    assert "does not fit" in plan.why


@pytest.mark.slow
def test_rules_that_do_not_divide_the_parameters_are_passed_over():
    """Three devices divide 96 rows, but not a width of 512."""
    spec = spec_of(DATASET, "layer", bindings=(*FIT_ALL, "BATCH_SIZE = 96"))
    plan = fitting.fitted(spec, with_memory(2**40, 3), 3)
    assert plan.spec.placement.axis_rules == "data"
    assert "; dimensions that the mesh does not divide: " in plan.why
    with pytest.raises(errors.ConfigError, match="(?s)fits on .*does not divide"):
        fitting.fitted(spec, with_memory(2**20, 3), 3)
    uneven = spec_of(DATASET, "layer", bindings=(*FIT_ALL, "BATCH_SIZE = 97"))
    with pytest.raises(errors.ConfigError, match="a batch of 97 rows for 3 devices"):
        fitting.fitted(uneven, with_memory(2**40, 3), 3)


@pytest.mark.slow
def test_what_is_set_is_obeyed_and_refused_only_where_something_is_left_open():
    spec = spec_of(DATASET, "layer", bindings=("options.Batching.num_parts = 4",))
    assert fitting.fitted(spec, with_memory(1), 8) == (spec, "")
    spec = spec_of(DATASET, "none", bindings=(*ALONE, "options.Batching.num_parts = 0"))
    with pytest.raises(
        errors.ConfigError, match="(?s)the batch in 128 parts .*Leave more"
    ):
        fitting.fitted(spec, with_memory(2**20), 1)


@pytest.mark.slow
def test_a_plan_says_what_was_chosen_and_why():
    """On this machine's devices, which share a batch of 128 rows."""
    spec = spec_of(
        DATASET, bindings=(*FIT_ALL, "options.Fleet.device_memory_gib = 4.0")
    )
    rows = cost_table.describe(spec)
    why = rows["chosen as the fastest that fits"]
    assert "of 4.00 GiB" in why
    assert all(f"{remat!r}, rules 'data', the batch" in why for remat in config.REMATS)
    assert all(f"{remat!r}, rules 'fsdp', the batch" in why for remat in config.REMATS)


@pytest.mark.slow
def test_a_fleet_leaves_rules_to_its_layout_and_divides_batches_at_last():
    spec = spec_of(PROMPT, bindings=FIT_ALL)
    assert spec.is_fleet
    roomy = fitting.fitted(spec, with_memory(2**50), 1)
    assert roomy.spec.placement.axis_rules == "data"
    assert roomy.spec.batching.num_parts == 1
    in_parts = dataclasses.replace(
        roomy.spec, batching=dataclasses.replace(spec.batching, num_parts=2)
    )
    fleet = dataclasses.replace(in_parts.fleet, lanes=1)
    in_parts = dataclasses.replace(in_parts, fleet=fleet)
    layout = fleet_plan.layout_of(in_parts, with_memory(2**50))
    size = sum(layout.bytes_per_device.values())
    wholly = dataclasses.replace(spec, execution=config.Execution(remat="none"))
    fitted = fitting.fitted(wholly, with_memory(1.001 * size / 0.9), 1).spec
    assert fitted.batching.num_parts == 2
