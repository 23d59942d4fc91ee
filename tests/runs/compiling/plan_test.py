"""What plans of evaluations count, against sums by hand."""

import dataclasses

import pytest

from elm_jax.runs.compiling import plan
from elm_jax.runs.placement import Devices
from tests.runs.compiling import tiny


@pytest.mark.parametrize("program", [tiny.RANKING, tiny.DECODING], ids=lambda p: p.kind)
def test_a_layer_that_devices_split_is_whole_while_it_scores(program):
    # The same rows on each device, parameters whole or halved.
    whole, split = (
        plan.bytes_by_use(
            dataclasses.replace(program, adapter=None, devices=devices), "cuda"
        )["activations"]
        for devices in (
            Devices(num_data=2, num_fsdp=1, num_model=1, axis_rules="fsdp"),
            Devices(num_data=1, num_fsdp=2, num_model=1, axis_rules="fsdp"),
        )
    )
    # Attention twice, feed-forward with its gate, three norms, in float32: a layer of
    # the decoder. Nothing trains, so there are no gradients.
    assert split - whole == 4 * (8 * 32 * 32 + 3 * 32 * 64 + 3 * 32)
