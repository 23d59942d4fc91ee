"""`remat = "fit"`: the fastest recomputation that fits, by plan."""

import dataclasses

import pytest

from elm_jax import errors
from elm_jax.model import config
from elm_jax.runs import train
from elm_jax.runs.training import fitting, fleet_plan, machine
from tests.runs.compiling.built import SMALL, build

DATASET, PROMPT = "gin/t5/dataset_experts.gin", "gin/t5/prompt_experts.gin"


def asked(file, remat="fit", **changes):
    """Returns a training of T5-small that needs no base."""
    run, shape = build(train.Train, file, SMALL)
    return dataclasses.replace(
        run.spec(),
        base_dir=None,
        model=shape,
        execution=config.Execution(remat=remat),
        **changes,
    )


def with_memory(num_bytes):
    return machine.Machine(
        num_devices=1,
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
        spec = asked(DATASET, remat)
        sizes[remat] = fitting.solo_bytes(spec, everything, 1)
    return sizes


def test_less_memory_makes_more_be_computed_again(needed):
    assert needed["none"] > needed["products"] > needed["layer"]
    for remat, size in needed.items():
        just_enough = with_memory(1.001 * size / fleet_plan.USABLE_SHARE)
        found = fitting.fitted(asked(DATASET), just_enough, 1)
        assert found.spec.execution.remat == remat
        assert found.spec == asked(DATASET, remat)
        assert found.why.startswith(f"'{remat}' takes")


def test_where_nothing_fits_each_size_is_told(needed):
    too_little = with_memory(0.9 * needed["layer"])
    with pytest.raises(errors.ConfigError) as caught:
        fitting.fitted(asked(DATASET), too_little, 1)
    for remat, size in needed.items():
        assert f"{remat!r} {fleet_plan.show_size(size)}" in str(caught.value)


def test_devices_that_do_not_tell_their_memory_are_refused():
    with pytest.raises(errors.ConfigError, match="device_memory_gib"):
        fitting.fitted(asked(PROMPT), with_memory(None), 1)


def test_what_a_training_says_itself_stays():
    spec = asked(PROMPT, "layer")
    assert fitting.fitted(spec, with_memory(None), 1) == (spec, "")


def test_a_fleet_takes_lanes_before_it_saves_operations():
    layouts = {
        remat: fleet_plan.layout_of(asked(PROMPT, remat), with_memory(2**50))
        for remat in config.REMATS
    }
    sizes = {r: sum(each.bytes_per_device.values()) for r, each in layouts.items()}
    memory = with_memory(1.001 * sizes["layer"] / fleet_plan.USABLE_SHARE)
    without = fleet_plan.layout_of(asked(PROMPT, "none"), memory)
    found = fitting.fitted(asked(PROMPT), memory, 1).spec
    layout = fleet_plan.layout_of(found, memory)
    assert found.execution.remat == "layer"
    assert layout.num_lanes == layouts["layer"].num_lanes > without.num_lanes
