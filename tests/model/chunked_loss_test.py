"""Loss in parts of the positions: the plain loss and gradients, and less in memory."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import chunked_loss, loss, t5
from elm_jax.peft import expert_parts

Z_LOSS = 1e-2


def value_and_gradient(tiny, num_chunks, *, pattern=".*", is_tied=False, packed=False):
    shape = dataclasses.replace(
        tiny.config, logits_chunks=num_chunks, logits_via_embedding=is_tied
    )
    model = t5.T5(shape)
    params = t5.init_params(model, seed=0)
    trained, frozen = trees.split(params, pattern)
    loss_fn = loss.make_loss_fn(model, z_loss=Z_LOSS)
    batch = tiny.packed_batch if packed else tiny.batch

    def loss_of(trained):
        value, metrics = loss_fn(trees.join(trained, frozen), batch, None)
        return 3 * value, metrics  # whatever factor the backward pass brings

    return jax.jit(jax.value_and_grad(loss_of, has_aux=True))(trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_chunks", "options"),
    [
        (3, {}),
        (5, {"packed": True}),
        (100, {"is_tied": True}),
        (4, {"pattern": expert_parts.NORMS}),
    ],
    ids=["divides", "fills up", "a position each", "frozen output layer"],
)
def test_loss_metrics_and_gradients_are_those_of_all_logits_at_once(
    tiny, num_chunks, options
):
    in_chunks = value_and_gradient(tiny, num_chunks, **options)
    expected = value_and_gradient(tiny, 1, **options)
    assert jax.tree.structure(in_chunks) == jax.tree.structure(expected)
    greatest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1]))
    for leaf, expected_leaf in zip(
        *map(jax.tree.leaves, (in_chunks, expected)), strict=True
    ):
        # To 1e-6 of the greatest gradient; a tensor's own was seen to be off by 1.2e-6.
        largest = np.abs(expected_leaf).max()
        atol = min(2e-6 * largest, 1e-6 * max(greatest, largest))
        np.testing.assert_allclose(leaf, expected_leaf, rtol=0, atol=atol)


@pytest.mark.slow
def test_sums_are_over_weights_and_count_what_is_most_likely():
    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(size=(3, 7, 4)), rng.normal(size=(4, 5))
    hidden, kernel = hidden.astype(np.float32), kernel.astype(np.float32)
    tokens = rng.integers(0, 5, (3, 7)).astype(np.int32)
    weights = rng.random((3, 7)).astype(np.float32)
    sums = chunked_loss.sums(
        hidden, kernel, tokens, weights, z_loss=Z_LOSS, num_chunks=2
    )
    logits = hidden @ kernel
    losses, log_z = loss.cross_entropy(logits, tokens)
    losses = losses + Z_LOSS * log_z**2
    is_likely = logits.argmax(-1) == tokens
    assert 0 < is_likely.sum() < tokens.size
    expected = (np.sum(losses * weights), np.sum(is_likely * weights))
    np.testing.assert_allclose(sums, expected, rtol=1e-5)


def shapes_in(jaxpr):
    """Yields the shapes of all that a program computes, inner programs included."""
    for equation in jaxpr.eqns:
        yield from (var.aval.shape for var in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from shapes_in(inner)


@pytest.mark.parametrize("num_chunks", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_logits_of_all_positions_are_never_there(tiny, num_chunks):
    shape = dataclasses.replace(tiny.config, logits_chunks=num_chunks)
    model = t5.T5(shape)
    loss_fn = loss.make_loss_fn(model)

    def loss_of(params):
        return loss_fn(params, tiny.batch, None)[0]

    jaxpr = jax.make_jaxpr(jax.grad(loss_of))(tiny.params).jaxpr
    count = tiny.batch["decoder_target_tokens"].size * shape.vocab_size
    largest = max(
        np.prod(shape_of)
        for shape_of in shapes_in(jaxpr)
        if shape_of[-1:] == (shape.vocab_size,) and len(shape_of) > 2
    )
    assert largest == count / num_chunks


def test_a_frozen_output_layer_has_no_gradient(tiny):
    def products(pattern):
        shape = dataclasses.replace(tiny.config, logits_chunks=4)
        trained, frozen = trees.split(tiny.params, pattern)
        loss_fn = loss.make_loss_fn(t5.T5(shape))

        def loss_of(trained):
            return loss_fn(trees.join(trained, frozen), tiny.batch, None)[0]

        jaxpr = jax.make_jaxpr(jax.grad(loss_of))(trained).jaxpr
        gradient_shape = (shape.emb_dim, shape.vocab_size)
        return sum(shape_made == gradient_shape for shape_made in shapes_in(jaxpr))

    assert products(expert_parts.NORMS) < products("decoder_norm|logits_dense")


@pytest.mark.slow
def test_lanes_have_their_own_losses(tiny, assert_close):
    shape = dataclasses.replace(tiny.config, logits_chunks=3)
    loss_fns = [loss.make_loss_fn(t5.T5(s)) for s in (shape, tiny.config)]
    norms, frozen = trees.split(tiny.params, expert_parts.NORMS)
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), norms)

    def gradient_of(loss_fn):
        def loss_of(norms):
            return loss_fn(trees.join(norms, frozen), tiny.batch, None)[0]

        return jax.jit(jax.vmap(jax.grad(loss_of)))(lanes)

    in_chunks, expected = map(gradient_of, loss_fns)
    for leaf, expected_leaf in zip(
        *map(jax.tree.leaves, (in_chunks, expected)), strict=True
    ):
        assert_close(leaf, expected_leaf)
