"""Each way to compute a step has, alone, the gradients of the plain one in float32."""

import dataclasses

import jax
import numpy as np
import pytest

from elm_jax.model import loss, t5

WAYS = {
    "products": {"remat": "products"},
    "layer": {"remat": "layer"},
    "dot_product": {"attention": "dot_product"},
    "logits in parts": {"logits_chunks": 3},
}


def gradients(tiny, batch, **way):
    plain = {"remat": "none", "attention": "einsum", "logits_chunks": 1}
    model = t5.T5(dataclasses.replace(tiny.config, **(plain | way)))
    loss_fn = loss.make_loss_fn(model, z_loss=1e-2)
    return jax.jit(jax.grad(lambda params: loss_fn(params, batch, None)[0]))(
        tiny.params
    )


@pytest.fixture(scope="module")
def plain_gradients(tiny):
    return {
        packed: gradients(tiny, tiny.packed_batch if packed else tiny.batch)
        for packed in (False, True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_gradients_are_those_of_the_plain_way_to_a_millionth(
    tiny, plain_gradients, packed, name
):
    """Of the greatest gradient: the same terms are summed in another order."""
    batch = tiny.packed_batch if packed else tiny.batch
    computed, expected = gradients(tiny, batch, **WAYS[name]), plain_gradients[packed]
    assert jax.tree.structure(computed) == jax.tree.structure(expected)
    pairs = [*zip(*map(jax.tree.leaves, (computed, expected)), strict=True)]
    greatest = max(np.abs(leaf).max() for _, leaf in pairs)
    assert max(np.abs(a - b).max() for a, b in pairs) <= 1e-6 * greatest
