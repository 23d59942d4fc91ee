"""What a fleet's experts are on other devices, lanes and splits of the base."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from elm_jax.cli import gin_flags
from elm_jax.runs import placement, train
from elm_jax.runs.training import fleet_plan, machine
from tests.runs.training.fleets import (
    ALONE,
    FEW,
    KEEP,
    NAMED,
    PER_EXPERT,
    TASKS,
    fingerprints,
    prepare,
    rows_of,
    train_in,
)

pytestmark = [pytest.mark.slow, pytest.mark.optimized]  # claims of bits

LANES = "options.Fleet.lanes = 2"
LEFT = TASKS[0]  # what a run was at when it was stopped, the others being finished


def train_on_one_device(folder, base):
    """Trains the experts in several ways, each in a folder of its own."""
    folder, base = pathlib.Path(folder), pathlib.Path(base)
    ways = {"alone": (ALONE,), "fleet": ("options.Fleet.size = 2",)}
    for way, bindings in (ways | {"lanes": (KEEP, LANES)}).items():
        (folder / way).mkdir()
        train_in(folder / way, base, *bindings)
    shutil.copytree(folder / "lanes", folder / "resumed", symlinks=True)
    shutil.rmtree(folder / "resumed" / "prompt_experts" / LEFT)
    work = folder / "resumed" / "work" / "prompt_experts" / LEFT
    for state in (work / "state").iterdir():
        if state.name != "2":
            shutil.rmtree(state)
    train_in(folder / "resumed", base, KEEP, LANES)


@pytest.fixture(scope="module")
def one_device(base, tmp_path_factory):
    """Folder of experts that were trained where there is one device."""
    folder = tmp_path_factory.mktemp("one_device")
    code = "import sys; from tests.runs.training import fleet_devices_test as this\n"
    code += "this.train_on_one_device(*sys.argv[1:])"
    environ = {n: v for n, v in os.environ.items() if n != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(base)],
        cwd=pathlib.Path(__file__).parents[3],
        env=environ | {"JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert f"{LEFT}: goes on from its own step 2\n" in run.stdout
    return folder


def test_on_one_device_experts_of_a_fleet_have_the_bits_of_those_trained_alone(
    one_device,
):
    """Three experts, of which two fit at a time."""
    prints = fingerprints(one_device / "fleet")
    assert sorted(prints) == sorted(TASKS)
    assert prints == fingerprints(one_device / "alone")
    for name in TASKS:
        pair = [rows_of(one_device / way, name) for way in ("fleet", "alone")]
        losses, expected = ([row["loss"] for row in rows] for rows in pair)
        assert losses == expected


def test_what_is_left_of_a_fleet_in_lanes_ends_with_the_bits_of_all_of_it(one_device):
    """The steps of two experts are one batch; then of one, beside an unused lane."""
    prints = fingerprints(one_device / "resumed")
    assert prints == fingerprints(one_device / "lanes")
    steps = [row["step"] for row in rows_of(one_device / "resumed", LEFT)]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_rules_that_could_split_a_base_but_need_not_change_no_bit(
    whole, base, tmp_path
):
    """Those of `data_model`, where as many devices as models is one."""
    train_in(tmp_path, base, "placement.Placement.axis_rules = 'data_model'")
    assert fingerprints(tmp_path) == fingerprints(whole)


def layout_of(run):
    run.choose_devices()
    own_machine = machine.this_machine(run.fleet.device_memory_gib)
    return fleet_plan.layout_of(run.spec(), own_machine)


def memory_for_half_a_base(folder, base):
    """Returns GiB of a device that just hold half a base and an expert's step."""
    run, *_ = gin_flags.build_run(
        (train.Train,),
        gin_files=[prepare(folder, base, PER_EXPERT)],
        bindings=[f"MODEL_DIR = '{folder}'", *NAMED, *FEW],
    )
    half = dataclasses.replace(
        run, placement=placement.Placement(axis_rules="data_model", num_model=2)
    )
    needed = sum(layout_of(half).bytes_per_device.values())
    gib = 1.001 * needed / 0.9 / 2**30  # a tenth of the memory is not for the plan
    layout = layout_of(dataclasses.replace(run, device_memory_gib=gib))
    assert (layout.axis_rules, layout.num_model) == ("data_model", 2)
    return gib


def test_a_base_that_does_not_fit_is_split_and_its_experts_learn_the_same(
    whole, base, tmp_path
):
    """Two devices add in another order than one: loss to 1e-5; 1.4e-7 was seen."""
    gib = memory_for_half_a_base(tmp_path, base)
    train_in(tmp_path, base, f"options.Fleet.device_memory_gib = {gib}")
    for name in TASKS:
        pair = [rows_of(folder, name) for folder in (tmp_path, whole)]
        losses, expected = ([row["loss"] for row in rows] for rows in pair)
        assert losses == pytest.approx(expected, rel=1e-5)
