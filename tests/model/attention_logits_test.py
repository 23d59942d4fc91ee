"""Attention logits: gradients against JAX's own, and products of cheap types only."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax.model import attention_logits, config, loss, t5


def plain(query, keys, bias):
    return jnp.einsum("bhtk,bhsk->bhts", query, keys) + bias


def ours(query, keys, bias):
    logits = attention_logits.logits_of(query, keys)
    return attention_logits.add_bias(logits, bias)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_value_and_gradients_are_those_of_the_plain_formula(dtype):
    rng = np.random.default_rng(0)
    shapes = ((2, 3, 5, 8), (2, 3, 7, 8), (1, 3, 5, 7), (2, 3, 5, 7))
    query, keys, bias, weights = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes
    )
    query, keys = query.astype(dtype), keys.astype(dtype)

    def values_of(fn, *arguments):
        grads = jax.grad(lambda *a: jnp.sum(fn(*a) * weights), argnums=(0, 1, 2))
        with jax.numpy_rank_promotion("allow"):
            return fn(*arguments), *grads(*arguments)

    computed = values_of(ours, query, keys, bias)
    wide = (array.astype(jnp.float32) for array in (query, keys, bias))
    # In float32 the same products, to 1e-6 of the greatest. In bfloat16 the gradient is
    # rounded once before and once behind a product of at most 7 terms.
    is_exact = dtype == "float32"
    assert [a.dtype for a in computed] == ["float32", dtype, dtype, "float32"]
    for got, want in zip(computed, values_of(plain, *wide), strict=True):
        got = np.asarray(got, np.float32)
        rtol, atol = (0, 1e-6 * np.abs(want).max()) if is_exact else (0.05, 0.05)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "products", "layer"])
def test_a_bfloat16_step_multiplies_in_float32_only_where_it_must(remat):
    """Widened operands would halve an accelerator's rate, or worse."""
    vocab_size, buckets = 104, 28  # sizes that nothing else has
    shape = config.T5Config(
        vocab_size=vocab_size,
        emb_dim=32,
        num_heads=5,
        head_dim=8,
        mlp_dim=72,
        num_encoder_layers=2,
        num_decoder_layers=2,
        relpos_buckets=buckets,
        dtype="bfloat16",
        remat=remat,
    )
    model = t5.T5(shape)
    batch = {
        "encoder_input_tokens": jax.ShapeDtypeStruct((3, 11), np.int32),
        "decoder_input_tokens": jax.ShapeDtypeStruct((3, 7), np.int32),
        "decoder_target_tokens": jax.ShapeDtypeStruct((3, 7), np.int32),
        "decoder_loss_weights": jax.ShapeDtypeStruct((3, 7), np.float32),
    }
    loss_fn = loss.make_loss_fn(model)
    grad = jax.jit(lambda p, b: jax.grad(lambda q: loss_fn(q, b, None)[0])(p))
    program = grad.lower(t5.param_shapes(model), batch).as_text()
    operand_types = re.findall(
        r"stablehlo\.dot_general.*: \(tensor<(\S+)>, tensor<(\S+)>\)", program
    )
    products = [[op.split("x") for op in operands] for operands in operand_types]
    wide = [each for each in products if any(op[-1] == "f32" for op in each)]
    assert len(products) > 50
    assert 3 < len(wide) < 12
    for left, right in wide:
        is_output_layer = str(vocab_size) in left + right
        is_of_positions = str(buckets) in left + right
        is_sum_over_batch = left == ["3", "f32"]
        assert is_output_layer or is_of_positions or is_sum_over_batch, (left, right)
