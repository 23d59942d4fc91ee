"""Bytes per device and operations per step, of T5-XL as the paper trained it."""

import dataclasses
import math

import pytest

from elm_jax import errors, trees
from elm_jax.model import cost, t5
from elm_jax.peft import bottleneck, expert_parts
from elm_jax.runs import placement
from elm_jax.runs.training import step_cost
from elm_jax.training import optimizers
from tests.runs.training.xl import NUM_PROMPT, XL

NUM_BASE = 2_849_757_184
BATCH = cost.BatchShape(batch_size=8, inputs_length=512, targets_length=128)
ONE = placement.Devices(num_data=1, num_model=1, axis_rules="data")


def parts_of(kind, devices, tx, shape=XL):
    spec = bottleneck.Bottleneck(reduction_factor=32)
    adapter_fn = spec.adapter_fn(shape.emb_dim) if kind == "prompt" else None
    model = t5.T5(shape, adapter_fn)
    parts = {
        "prompt": expert_parts.PROMPT_EXPERT,
        "dataset": expert_parts.DATASET_EXPERT,
    }
    pattern = parts[kind]
    trainable, frozen = trees.split(t5.param_shapes(model), pattern)
    parts = step_cost.bytes_per_device(
        model, BATCH, devices, tx=tx.make(10), trainable=trainable, frozen=frozen
    )
    plan = step_cost.describe(
        model, BATCH, devices, trainable_pattern=pattern, tx=tx.make(10)
    )
    return parts, plan


def test_a_prompt_expert_keeps_base_once_and_optimiser_state_for_its_own():
    parts, plan = parts_of("prompt", ONE, optimizers.AdamW())
    num_norms = NUM_PROMPT - (48 * 2) * (2 * 2048 * 64 + 64 + 2048)
    num_wide = 32128 * 2048  # the output layer stays float32
    num_bytes = 2 * (NUM_BASE - num_norms - num_wide) + 4 * num_wide
    assert parts["frozen parameters"] == num_bytes
    assert parts["trained parameters"] == parts["gradients"] == 4 * NUM_PROMPT
    assert 8 * NUM_PROMPT <= parts["optimiser"] < 8.01 * NUM_PROMPT  # two moments
    assert plan["trained per expert"] == f"{NUM_PROMPT:,}"
    assert "frozen parameters 5.43 GiB" in plan["bytes per device, about"]


@pytest.mark.slow
def test_a_dataset_expert_is_shared_among_devices_but_for_its_norms():
    devices = placement.Devices(num_data=2, num_model=4, axis_rules="data_model")
    alone, _ = parts_of("dataset", ONE, optimizers.Adafactor())
    parts, plan = parts_of("dataset", devices, optimizers.Adafactor())
    assert parts["frozen parameters"] == 0
    assert alone["trained parameters"] == 4 * NUM_BASE
    assert NUM_BASE <= parts["trained parameters"] < 1.001 * NUM_BASE
    # Factored second moments: a row and a column instead of a matrix.
    assert parts["optimiser"] < 0.01 * parts["trained parameters"]
    assert parts["activations"] < alone["activations"] / 2
    assert plan["devices"].startswith(
        "2 (data) x 1 (fsdp) x 4 (model) by rules 'data_model'"
    )


@pytest.mark.slow
def test_a_prompt_expert_costs_less_than_a_dataset_expert():
    plain = dataclasses.replace(XL, remat="none")
    prompt, dataset = (
        float(parts_of(kind, ONE, tx, plain)[1][key].split()[0])
        for kind, tx in (
            ("prompt", optimizers.AdamW()),
            ("dataset", optimizers.Adafactor()),
        )
        for key in ("FLOPs per step, at most",)
    )
    assert 0.64 < prompt / dataset < 0.72
    # The usual rule of thumb: 6 operations per parameter and token.
    for_targets = 128 * 8 * 6 * NUM_BASE / 2
    assert math.isclose(dataset, for_targets + 512 * 8 * 3 * NUM_BASE, rel_tol=0.2)


@pytest.mark.slow
def test_more_devices_than_this_machine_has_can_be_planned():
    devices = placement.choose_devices(
        placement.Placement(num_model=64, axis_rules="data_model")
    )
    assert (devices.num_data, devices.num_model) == (1, 64)
    devices = placement.choose_devices(
        placement.Placement(num_model=16, axis_rules="data_model")
    )
    _, plan = parts_of("dataset", devices, optimizers.Adafactor())
    assert plan["devices"].endswith("; this machine has 8")


@pytest.mark.parametrize("num_model", [1, 2, 8])
def test_devices_of_this_machine_are_all_used(num_model):
    devices = placement.choose_devices(
        placement.Placement(num_model=num_model, axis_rules="data_model")
    )
    assert devices.count == 8


@pytest.mark.slow
def test_fully_sharded_parameters_are_split_over_all_devices():
    devices = placement.Devices(num_data=1, num_fsdp=8, num_model=1, axis_rules="fsdp")
    parts, _ = parts_of("dataset", devices, optimizers.AdamW())
    for name in ("trained parameters", "gradients"):
        assert NUM_BASE / 2 <= parts[name] < 1.001 * NUM_BASE / 2
    assert NUM_BASE <= parts["optimiser"] < 1.001 * NUM_BASE  # two moments


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused_in_the_plan():
    devices = placement.Devices(num_data=3, num_model=1, axis_rules="data")
    with pytest.raises(errors.ConfigError, match="a batch of 8 rows for 3 devices"):
        parts_of("dataset", devices, optimizers.Adafactor())
