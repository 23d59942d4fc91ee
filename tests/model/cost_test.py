"""Estimates of cost, against XLA's own count."""

import dataclasses

import jax
import numpy as np
import pytest

from elm_jax.model import cost, loss, t5

SHAPE = cost.Shape(batch_size=2, inputs_length=32, targets_length=16)


def test_forward_operations_are_near_those_that_xla_counts(tiny):
    # XLA counts the body of a loop once, so the layers must be unrolled.
    model = t5.T5(dataclasses.replace(tiny.config, scan_unroll=2))
    tokens = (np.ones((2, 32), np.int32), np.ones((2, 16), np.int32))
    compiled = (
        jax.jit(lambda p, e, d: model.apply({"params": p}, e, d))
        .lower(tiny.params, *tokens)
        .compile()
    )
    counted = compiled.cost_analysis()["flops"]
    # The rest are norms, softmax and activations, many in so small a model.
    assert 0.7 * counted < cost.forward_flops(tiny.config, SHAPE) < counted


def test_operations_grow_linearly_with_the_batch(tiny):
    double = dataclasses.replace(SHAPE, batch_size=4)
    assert cost.train_flops(tiny.config, double) == 2 * cost.train_flops(
        tiny.config, SHAPE
    )


def test_recomputation_trades_bytes_for_operations(tiny):
    none, products, layer = (
        dataclasses.replace(tiny.config, remat=remat)
        for remat in ("none", "products", "layer")
    )
    assert cost.train_flops(layer, SHAPE) > cost.train_flops(products, SHAPE)
    kept = [cost.activation_bytes(each, SHAPE) for each in (none, products, layer)]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 3


@pytest.mark.parametrize("remat", ["none", "products", "layer"])
def test_bytes_are_of_the_order_that_xla_allocates(tiny, remat):
    wide = dataclasses.replace(
        tiny.config, emb_dim=64, mlp_dim=128, head_dim=32, remat=remat
    )
    shape = cost.Shape(batch_size=8, inputs_length=64, targets_length=32)
    loss_fn = loss.make_loss_fn(t5.T5(wide))
    tokens = [
        jax.ShapeDtypeStruct((8, length), np.int32)
        for length in (shape.inputs_length, shape.targets_length)
    ]
    batch = {
        "encoder_input_tokens": tokens[0],
        "decoder_input_tokens": tokens[1],
        "decoder_target_tokens": tokens[1],
        "decoder_loss_weights": tokens[1],
    }
    params = t5.param_shapes(t5.T5(wide))
    grad = jax.jit(lambda p, b: jax.grad(lambda q: loss_fn(q, b, None)[0])(p))
    allocated = grad.lower(params, batch).compile().memory_analysis()
    expected = cost.activation_bytes(wide, shape)
    assert 0.3 * allocated.temp_size_in_bytes < expected
    assert expected < 3 * allocated.temp_size_in_bytes


@pytest.mark.parametrize("moments", [0, 2])
def test_frozen_parameters_cost_their_own_bytes_only(tiny, moments):
    one = {"a": jax.ShapeDtypeStruct((3,), np.float32)}
    total = cost.train_bytes(
        tiny.config, SHAPE, trainable=one, frozen=one, moments=moments
    )
    activations = cost.activation_bytes(tiny.config, SHAPE)
    assert total - activations == 12 * (2 + moments) + 12
