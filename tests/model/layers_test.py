"""Relative positions, and attention where nothing may be attended to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.model import decoding, decoding_spec, layers, loss, t5


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7, 300])
def test_bias_is_the_entry_of_the_bucket_of_each_pair(tiny, length, bidirectional):
    module = layers.RelativePositionBias(tiny.config, bidirectional=bidirectional)
    table = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    variables = {"params": {"rel_embedding": table}}
    bias = jax.jit(module.apply, static_argnums=1)(variables, length)
    positions = np.arange(length)
    buckets = layers.relative_position_buckets(
        positions[None, :] - positions[:, None],
        bidirectional=bidirectional,
        num_buckets=32,
        max_distance=128,
    )
    np.testing.assert_allclose(bias[0], table[:, buckets], rtol=1e-6)


def test_buckets_are_exact_near_and_logarithmic_far():
    options = {"bidirectional": False, "num_buckets": 32, "max_distance": 128}
    distances = -np.array([0, 1, 15, 16, 32, 64, 127, 128, 10_000])
    buckets = layers.relative_position_buckets(distances, **options)
    np.testing.assert_array_equal(buckets, [0, 1, 15, 16, 21, 26, 31, 31, 31])
    later = layers.relative_position_buckets(np.arange(1, 9), **options)
    assert np.all(later == 0)


def test_a_row_that_may_look_nowhere_stays_finite(tiny):
    attention = layers.Attention(tiny.config)
    params = jax.tree.map(
        lambda leaf: leaf[0], tiny.params["encoder"]["layers"]["attention"]
    )

    def total(x, mask):
        attended = attention.apply({"params": params}, x, method="keys_values")
        out = attention.apply(
            {"params": params}, x, attended, mask=mask, deterministic=True
        )
        return jnp.sum(out)

    x = np.ones((1, 4, 32), np.float32)
    value, gradient = jax.jit(jax.value_and_grad(total))(
        x, np.zeros((1, 1, 4, 4), bool)
    )
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.slow
def test_packed_rows_are_told_apart_by_dot_product_attention(tiny, assert_close):
    """The mask of segments is [B, 1, T, S]: other rows, other masks."""
    models = (with_attention(tiny, "dot_product"), tiny.model)
    of_dot_product, expected = (
        jax.jit(loss.make_loss_fn(model), static_argnums=2)(
            tiny.params, tiny.packed_batch, None
        )[0]
        for model in models
    )
    assert_close(of_dot_product, expected)


@pytest.mark.slow
def test_greedy_tokens_are_the_same_by_dot_product_attention(tiny):
    model = with_attention(tiny, "dot_product")
    decode = decoding.make_decode_fn(model, decoding_spec.GREEDY, max_decode_len=12)
    tokens = decode(
        tiny.params, tiny.batch["encoder_input_tokens"], np.zeros(4, np.int32)
    )
    np.testing.assert_array_equal(tokens, tiny.reference["greedy_tokens"])


@pytest.mark.slow
def test_dot_product_attention_refuses_to_drop_weights(tiny):
    model = with_attention(tiny, "dot_product", dropout_rate=0.1)
    loss_fn = loss.make_loss_fn(model)
    loss_fn(tiny.params, tiny.batch, None)  # nothing is dropped
    with pytest.raises(errors.ConfigError, match=r"dropout_rate = 0\.1"):
        loss_fn(tiny.params, tiny.batch, jax.random.key(0))


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_a_fused_kernel_is_refused_where_there_is_none(tiny):
    model = with_attention(tiny, "cudnn", dtype="bfloat16")
    with pytest.raises(errors.ConfigError, match="'cudnn', refused by JAX"):
        loss.make_loss_fn(model)(tiny.params, tiny.batch, None)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_lanes", [0, 2])
def test_the_fused_kernel_gives_what_plain_products_give(
    tiny, assert_close, packed, num_lanes
):
    batch = tiny.packed_batch if packed else tiny.batch

    def gradient(attention):
        loss_fn = loss.make_loss_fn(with_attention(tiny, attention, dtype="bfloat16"))

        def of_one(params, batch):
            return jax.grad(lambda params: loss_fn(params, batch, None)[0])(params)

        if not num_lanes:
            return jax.jit(of_one)(tiny.params, batch)
        lanes = jax.tree.map(
            lambda leaf: np.stack([leaf] * num_lanes), (tiny.params, batch)
        )
        return jax.jit(jax.vmap(of_one))(*lanes)

    pairs = zip(
        *(jax.tree.leaves(gradient(a)) for a in ("cudnn", "einsum")), strict=True
    )
    for fused, expected in pairs:
        assert_close(fused, expected, tolerance=0.05)  # bfloat16 on both sides


def with_attention(tiny, attention, **change):
    shape = dataclasses.replace(tiny.config, attention=attention, **change)
    return t5.T5(shape)
