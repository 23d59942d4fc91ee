"""Values are those of a plain cast; gradients are sums in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import float32_sums

COUNT = 1001  # more than bfloat16 tells from its neighbours
ROWS = np.random.default_rng(0).normal(size=(3, 40, 8)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
USES = {
    "product": (
        float32_sums.product,
        lambda x, kernel: jnp.dot(x, kernel.astype(x.dtype)),
        KERNEL,
    ),
    "scaled": (
        float32_sums.scaled,
        lambda x, scale: x * scale.astype(x.dtype)[None, None],
        KERNEL[0],
    ),
    "shifted": (
        float32_sums.shifted,
        lambda x, bias: x + bias.astype(x.dtype)[None, None],
        KERNEL[0],
    ),
}


def value_and_gradients(function, x, parameter):
    def total(x, parameter):
        return jnp.sum(jnp.sin(function(x, parameter).astype(jnp.float32)))

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    return jax.jit(function)(x, parameter), both(x, parameter)[1]


@pytest.mark.parametrize("name", USES)
def test_in_float32_nothing_is_other_than_the_plain_way(name):
    function, plain, parameter = USES[name]
    actual, expected = (
        value_and_gradients(f, ROWS, parameter) for f in (function, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("name", USES)
def test_in_bfloat16_values_and_the_gradients_of_activations_are_the_same(name):
    function, plain, parameter = USES[name]
    rows = jnp.asarray(ROWS, jnp.bfloat16)
    actual, expected = (
        value_and_gradients(f, rows, parameter) for f in (function, plain)
    )
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_array_equal(actual[1][0], expected[1][0])
    assert actual[1][1].dtype == jnp.float32
    np.testing.assert_allclose(actual[1][1], expected[1][1], rtol=0.02, atol=0.5)


@pytest.mark.parametrize("name", USES)
def test_the_gradient_of_a_parameter_is_a_sum_in_float32(name):
    function, plain, _ = USES[name]
    rows = jnp.ones((COUNT, 1, 1), jnp.bfloat16)
    parameter = jnp.ones((1, 1) if name == "product" else 1, jnp.float32)

    def total(parameter, of):
        return jnp.sum(of(rows, parameter).astype(jnp.float32))

    assert jax.grad(total)(parameter, function).item() == COUNT
    assert jax.grad(total)(parameter, plain).item() != COUNT


def test_rounding_passes_gradients_on():
    table = jnp.asarray(KERNEL)
    rounded = float32_sums.rounded(table, "bfloat16")
    np.testing.assert_array_equal(
        rounded, table.astype(jnp.bfloat16).astype(jnp.float32)
    )

    def total(table):
        return jnp.sum(float32_sums.rounded(table, "bfloat16") * KERNEL)

    np.testing.assert_array_equal(jax.grad(total)(table), KERNEL)
    assert float32_sums.rounded(table, "float32") is table
