"""Mixtures that compute a token's experts alone, against those that compute all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.peft import bottleneck, chosen, mixture
from elm_jax.routing import token_routers
from tests.peft.mixed import CLOSE, KINDS, experts_of, mixed_model, sample_of
from tests.peft.sample import run

NUM_EXPERTS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByReading(token_routers.ScoreRouter):
    """Scores that differ from token to token and from place to place."""

    def score(self, params, read, norms):
        return read[..., :NUM_EXPERTS] * 3


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("name", [*KINDS])
def test_only_the_chosen_experts_give_what_all_with_zeros_give(name, top_k):
    module, params, inputs, outputs = sample_of(KINDS[name], NUM_EXPERTS)
    scores = np.random.default_rng(0).normal(size=(2, 5, NUM_EXPERTS))
    weights = token_routers.top_k_softmax(scores.astype(np.float32), top_k)
    arguments = params, inputs, outputs, weights
    effect = functools.partial(KINDS[name].effect, module)
    few = jax.jit(functools.partial(chosen.mix, effect, top_k=top_k))(*arguments)
    np.testing.assert_allclose(few, KINDS[name].mix(module, *arguments), **CLOSE)


@pytest.mark.slow
def test_a_weight_below_zero_is_a_weight():
    module, params, inputs, outputs = sample_of(KINDS["lora"], NUM_EXPERTS)
    weights = np.zeros((2, 5, NUM_EXPERTS), np.float32)
    weights[..., 1], weights[..., 3] = -0.5, 0.25
    arguments = params, inputs, outputs, weights
    effect = functools.partial(KINDS["lora"].effect, module)
    few = chosen.mix(effect, *arguments, top_k=2)
    np.testing.assert_allclose(few, KINDS["lora"].mix(module, *arguments), **CLOSE)


@pytest.mark.slow
def test_a_model_with_only_the_chosen_experts_gives_the_same():
    spec, router = KINDS["serial"], ByReading(top_k=2)
    _, base, adapters = experts_of(spec, NUM_EXPERTS)
    params = trees.join(base, mixture.stack(adapters))
    every = run(mixed_model(spec, NUM_EXPERTS, router), params)
    few = run(mixed_model(spec, NUM_EXPERTS, router, only_chosen=True), params)
    np.testing.assert_allclose(few, every, **CLOSE)


def scores_of(model, params, inputs, targets):
    """The scores of tokens that are no padding, of each row."""
    scores = jax.jit(lambda p: model.apply({"params": p}, inputs, targets))(params)
    return [of_row[row != 0] for of_row, row in zip(scores, targets, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serial", "lora"])
def test_blocks_of_other_batches_orders_and_paddings_give_what_all_experts_give(name):
    """Tokens of all rows share blocks, so the rest of a batch decides where each is."""
    spec, router = KINDS[name], ByReading(top_k=2)
    _, base, adapters = experts_of(spec, NUM_EXPERTS)
    params = trees.join(base, mixture.stack(adapters))
    dense = mixed_model(spec, NUM_EXPERTS, router)
    few = mixed_model(spec, NUM_EXPERTS, router, only_chosen=True)
    rng = np.random.default_rng(1)
    inputs, targets = rng.integers(2, 30, (7, 6)), rng.integers(2, 30, (7, 4))
    for place, row in enumerate(inputs):
        row[6 - place % 4 :] = 0  # of other lengths
    targets[::2, 3:] = 0
    expected = scores_of(dense, params, inputs, targets)
    order = rng.permutation(7)
    padded = [np.pad(tokens, ((0, 0), (0, 5))) for tokens in (inputs, targets)]
    empty = [np.pad(tokens, ((0, 3), (0, 0))) for tokens in (inputs, targets)]
    runs = {
        "whole": (scores_of(few, params, inputs, targets), range(7)),
        "in another order": (
            scores_of(few, params, inputs[order], targets[order]),
            order,
        ),
        "padded": (scores_of(few, params, *padded), range(7)),
        "beside rows without a token": (scores_of(few, params, *empty), range(7)),
        "alone": (scores_of(few, params, inputs[4:5], targets[4:5]), [4]),
        "of three": (scores_of(few, params, inputs[2:5], targets[2:5]), [2, 3, 4]),
    }
    for how, (scores, places) in runs.items():
        for of_row, place in zip(scores, places, strict=False):
            # Products of other shapes, in all layers.
            np.testing.assert_allclose(
                of_row, expected[place], rtol=2e-5, atol=1e-4, err_msg=how
            )


SPREADS = {
    "at random": np.random.default_rng(0).integers(0, 7, (40, 2)),
    "all to one expert": np.full((40, 2), 6),
    "one token": np.array([[3, 1]]),
    "each expert once": np.arange(7)[:, None],
}


@pytest.mark.parametrize("name", [*SPREADS])
def test_every_pair_has_a_row_of_its_own_in_a_block_of_its_expert(name):
    pairs = SPREADS[name].astype(np.int32)
    blocks = jax.jit(chosen.blocks_of, static_argnums=1)(pairs, 7)
    slots, rows = np.asarray(blocks.slot), blocks.token.shape[1]
    assert len({*slots.ravel().tolist()}) == pairs.size
    assert slots.max() < blocks.token.size
    np.testing.assert_array_equal(np.asarray(blocks.expert)[slots // rows], pairs)
    tokens = np.asarray(blocks.token).ravel()[slots]
    expected = np.broadcast_to(np.arange(len(pairs))[:, None], pairs.shape)
    np.testing.assert_array_equal(tokens, expected)


def test_rows_grow_with_the_pairs_and_not_with_tokens_times_experts():
    num_tokens, top_k = 4096, 2
    for num_experts in (16, 64, 256):
        sizes = num_tokens * top_k, num_experts
        rows = chosen.num_blocks(*sizes) * chosen.rows_of_block(*sizes)
        assert num_tokens * top_k <= rows <= 2 * num_tokens * top_k


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serial", "lora"])
def test_norms_are_of_float32_sums_where_parameters_are_narrow(name):
    """Two units that nearly cancel: sums of their squares in bfloat16 are all noise."""
    rng = np.random.default_rng(0)
    up = rng.normal(size=16).astype(jnp.bfloat16)
    opposite = -up * jnp.bfloat16(1 + 2**-7)
    kernel = np.stack([up, opposite])[None]
    spec = KINDS[name]
    ones, zeros = np.ones((1, 1, 16), jnp.bfloat16), np.zeros((1, 16), jnp.bfloat16)
    down = np.full((1, 16, 2), 1 / 16, jnp.bfloat16)
    if name == "lora":
        params, middle = {"lora_a": down, "lora_b": kernel}, spec.scale
    else:
        params = {
            "down": {"kernel": down, "bias": zeros[:, :2]},
            "up": {"kernel": kernel, "bias": zeros},
        }
        middle = float(jax.nn.gelu(jnp.bfloat16(1)))
    norms = spec.norms(None, params, ones, ones)
    effect = middle * np.sum(kernel[0].astype(np.float64), axis=0)
    np.testing.assert_allclose(norms[0, 0, 0], np.linalg.norm(effect), rtol=1e-2)


@pytest.mark.parametrize("name", ["serial", "lora"])
def test_norms_ask_devices_for_whole_float32_products(name):
    """By default GPUs would take TF32 for them, and TPUs bfloat16."""
    spec = KINDS[name]
    module, *arguments = sample_of(spec, NUM_EXPERTS)
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), arguments)
    jaxpr = jax.make_jaxpr(functools.partial(spec.norms, module))(*narrow)
    exact = (jax.lax.Precision.HIGHEST,) * 2
    precisions = [
        equation.params["precision"]
        for equation in jaxpr.eqns
        if equation.primitive.name == "dot_general"
        and equation.outvars[0].aval.dtype == jnp.float32
    ]
    assert len(precisions) >= 3
    assert {*precisions} == {exact}


def test_a_router_that_weighs_all_chooses_none():
    with pytest.raises(errors.ConfigError, match="only_chosen"):
        mixture.Mixture(
            of=bottleneck.Bottleneck(),
            num_experts=4,
            router=token_routers.Arrow(top_k=-1),
            only_chosen=True,
        )
