"""Relative positions, and attention where nothing may be attended to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax.model import layers


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
    found = layers.relative_position_buckets(distances, **options)
    np.testing.assert_array_equal(found, [0, 1, 15, 16, 21, 26, 31, 31, 31])
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
