"""Mixtures: stacked experts in one model, weighted for each token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import decoding, decoding_spec, scoring, t5
from elm_jax.partitioning import rules
from elm_jax.peft import bottleneck, chosen, effects, lora, mixture
from elm_jax.types import LAYERS
from tests.model import naive_scores
from tests.peft.mixed import (
    CLOSE,
    KINDS,
    experts_of,
    mixed_model,
    sample_of,
    with_routed_norms,
)
from tests.peft.sample import TOKENS, run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(mixture.Router):
    """Weights that are the same everywhere."""

    weights: tuple[float, ...]

    def weigh(self, params, read, norms, count):
        weights = np.array(self.weights, np.float32)
        return jnp.broadcast_to(weights, (*read.shape[:-1], count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByReading(mixture.Router):
    """Weights that differ from token to token and from place to place."""

    def weigh(self, params, read, norms, count):
        scores = read[..., :count].astype(jnp.float32) * 3
        return jax.nn.softmax(scores, axis=-1)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("name", [*KINDS])
def test_one_expert_of_weight_1_is_that_expert_bit_for_bit(name):
    model, base, adapters = experts_of(KINDS[name], 1)
    alone = run(model, trees.join(base, adapters[0]))
    mixed = mixed_model(KINDS[name], 1, Given(weights=(1.0,)))
    params = trees.join(base, mixture.stack(adapters))
    assert not trees.diff(params, t5.param_shapes(mixed))
    if name == "of_a_user":  # XLA joins its product with the sum behind it
        np.testing.assert_allclose(run(mixed, params), alone, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(run(mixed, params), alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS])
@pytest.mark.parametrize("chosen", [0, 2])
def test_weight_1_for_one_of_three_is_that_expert(name, chosen):
    model, base, adapters = experts_of(KINDS[name], 3)
    alone = run(model, trees.join(base, adapters[chosen]))
    weights = tuple(float(number == chosen) for number in range(3))
    mixed = mixed_model(KINDS[name], 3, Given(weights=weights))
    params = trees.join(base, mixture.stack(adapters))
    np.testing.assert_allclose(run(mixed, params), alone, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS])
def test_the_effects_and_their_norms_are_those_of_the_experts_alone(name):
    spec = KINDS[name]
    module, params, inputs, outputs = sample_of(spec, 3)
    rng = np.random.default_rng(1)
    alone = np.stack(
        [
            module.apply(
                {"params": jax.tree.map(lambda leaf, n=n: leaf[n], params)},
                inputs,
                outputs,
            )
            for n in range(3)
        ]
    ).astype(np.float64)
    weights = rng.normal(size=(2, 5, 3)).astype(np.float32)
    effects = alone - outputs
    expected = outputs + np.einsum("bte,ebtd->btd", weights, effects)
    mixed_outputs = spec.mix(module, params, inputs, outputs, weights)
    np.testing.assert_allclose(mixed_outputs, expected, rtol=1e-4, atol=1e-4)
    even = np.full((2, 5, 3), 1 / 3, np.float32)
    mixed_outputs = spec.mix(module, params, inputs, outputs, even)
    mean = alone.mean(axis=0)
    # Sums of float32 are as exact as their greatest parts.
    np.testing.assert_allclose(
        mixed_outputs, mean, rtol=0, atol=1e-6 * np.abs(mean).max()
    )
    norms = spec.norms(module, params, inputs, outputs)
    expected = np.moveaxis(np.linalg.norm(effects, axis=-1), 0, -1)
    np.testing.assert_allclose(norms, expected, rtol=1e-4, atol=1e-4)


WIDTHS = {
    "lora": (
        lora.Lora(rank=2, alpha=3.0, targets="/key$"),
        lora.Lora(rank=4, alpha=5.0, targets="/key$", rank_stabilized=True),
        lora.Lora(rank=3, alpha=24.0, targets="/key$", dropout=0.1),
    ),
    "serial": tuple(bottleneck.Bottleneck(reduction_factor=n) for n in (8, 2, 4)),
    "parallel": tuple(
        bottleneck.Bottleneck(reduction_factor=n, parallel=True, activation="relu")
        for n in (4, 8, 16)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WIDTHS])
def test_padded_experts_are_mixed_as_those_of_their_own_widths(name):
    """Also one of them with weight 1, where few are computed, and in their norms."""
    spec, effects_of_each, padded = effects.common(WIDTHS[name]), [], []
    for of_expert in WIDTHS[name]:
        module, params, inputs, outputs = sample_of(of_expert, 1)
        alone = jax.tree.map(lambda leaf: leaf[0], params)
        computed = module.apply({"params": alone}, inputs, outputs)
        effects_of_each.append(np.subtract(computed, outputs, dtype=np.float64))
        padded.append(
            effects.widened({"x_adapter": alone}, of_expert, to=spec)["x_adapter"]
        )
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
    module = sample_of(spec, 1)[0]
    weights = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    weights[0], weights[1, ..., 2] = np.eye(3)[1], 0
    expected = outputs + np.einsum("bte,ebtd->btd", weights, effects_of_each)
    effect = functools.partial(spec.effect, module)
    arguments = params, inputs, outputs, weights
    # Sums of float32 with zeros among them, of parts up to the greatest.
    close = {"rtol": 0, "atol": 1e-6 * np.abs(expected).max()}
    np.testing.assert_allclose(spec.mix(module, *arguments), expected, **close)
    few = chosen.mix(effect, *arguments, top_k=2)
    np.testing.assert_allclose(few, expected, **close)
    norms = np.moveaxis(np.linalg.norm(effects_of_each, axis=-1), 0, -1)
    computed = spec.norms(module, *arguments[:3])
    np.testing.assert_allclose(computed, norms, rtol=1e-5)


@pytest.fixture(scope="module", params=["serial", "norms_too", "lora", "ia3"])
def routed(request):
    """A model whose weights differ everywhere, and its parameters."""
    if request.param == "norms_too":
        return with_routed_norms(KINDS["serial"], 3, ByReading(), reads="sub_layer")
    spec = KINDS[request.param]
    _, base, adapters = experts_of(spec, 3)
    return mixed_model(spec, 3, ByReading()), trees.join(base, mixture.stack(adapters))


@pytest.mark.slow
def test_choices_are_scored_as_if_each_were_alone_with_its_input(routed):
    model, params = routed
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, 96, (3, 7)).astype(np.int32)
    choices = rng.integers(2, 96, (3, 4, 5)).astype(np.int32)
    mask = np.ones((3, 4), bool)
    scores = scoring.make_score_fn(model)(params, inputs, choices, mask)
    naive = naive_scores.make_score_fn(model)(params, inputs, choices, mask)
    np.testing.assert_allclose(scores, naive, rtol=1e-4)


@pytest.mark.slow
def test_keys_and_values_of_an_input_are_weighed_once_for_all_choices(routed):
    model, params = routed
    num_inputs, inputs_length, num_choices, length = 3, 7, 4, 5
    inputs = np.full((num_inputs, inputs_length), 5, np.int32)
    choices = np.full((num_inputs * num_choices, length), 6, np.int32)

    def choose(p):
        variables = {"params": p}
        encoded = model.apply(variables, inputs, method=model.encode)
        rows = encoded, inputs, scoring.shift_right(choices)
        return model.apply(
            variables, *rows, method=model.decode, mutable=[mixture.OBSERVED]
        )[1]

    rows = {
        place: values["weights"].shape[1:-1]
        for place, values in mixture.observed(jax.eval_shape(choose, params)).items()
    }
    names = [name for name in rows if "/encoder_decoder_attention/" in name]
    once = [name for name in names if name.endswith(("/key_adapter", "/value_adapter"))]
    assert bool(once) == ("cross_attention_adapter" not in " ".join(rows))
    for place, shape in rows.items():
        if place in once:
            assert shape == (num_inputs, inputs_length)
        else:  # queries of all choices lie side by side
            assert np.prod(shape) == num_inputs * num_choices * length


@pytest.mark.slow
def test_padding_and_the_rest_of_a_batch_change_no_weight(routed):
    model, params = routed
    score = scoring.make_score_fn(model)
    rng = np.random.default_rng(1)
    inputs = rng.integers(2, 96, (3, 7)).astype(np.int32)
    choices = rng.integers(2, 96, (3, 2, 5)).astype(np.int32)
    mask = np.ones((3, 2), bool)
    together = score(params, inputs, choices, mask)
    wider = np.pad(inputs, ((0, 0), (0, 4))), np.pad(choices, ((0, 0), (0, 0), (0, 3)))
    padded = score(params, *wider, mask)
    np.testing.assert_allclose(padded, together, rtol=1e-4)
    alone = score(params, inputs[1:2], choices[1:2], mask[1:2])
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-4)


PACKED = {  # the inputs and answers of two rows in one
    "encoder_input_tokens": np.array([[5, 6, 7, 1, 8, 9, 1, 0]], np.int32),
    "decoder_input_tokens": np.array([[0, 11, 12, 0, 14, 0]], np.int32),
}
SEGMENTS = {
    "encoder_segment_ids": np.array([[1, 1, 1, 1, 2, 2, 2, 0]], np.int32),
    "decoder_segment_ids": np.array([[1, 1, 1, 2, 2, 0]], np.int32),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "router"),
    [
        ("serial", ByReading()),
        ("norms_too", ByReading()),
        ("lora", ByReading()),
        ("ia3", Given(weights=(0.5, 0.2, 0.3))),
    ],
)
def test_inputs_packed_in_a_row_get_what_each_gets_alone(name, router):
    if name == "norms_too":
        model, whole = with_routed_norms(KINDS["serial"], 3, router)
    else:
        _, base, adapters = experts_of(KINDS[name], 3)
        model = mixed_model(KINDS[name], 3, router)
        whole = trees.join(base, mixture.stack(adapters))
    params = {"params": whole}
    together = jax.jit(model.apply)(params, **PACKED, **SEGMENTS)
    for segment in (1, 2):
        alone = {
            side: tokens[SEGMENTS[f"{side.split('_')[0]}_segment_ids"] == segment]
            for side, tokens in PACKED.items()
        }
        logits = model.apply(params, **{side: t[None] for side, t in alone.items()})
        of_segment = together[SEGMENTS["decoder_segment_ids"] == segment]
        np.testing.assert_allclose(of_segment, logits[0], **CLOSE)


def test_weights_of_whole_inputs_are_refused_where_inputs_are_packed(routed):
    model, params = routed
    weights = np.eye(3, dtype=np.float32)[:2]
    params = {"params": trees.join(params, mixture.weights_of_inputs(params, weights))}
    with pytest.raises(errors.ConfigError, match="weights for 2 inputs, and 1 rows"):
        jax.eval_shape(lambda p: model.apply(p, **PACKED, **SEGMENTS), params)


@pytest.mark.slow
def test_decoding_routes_each_new_token_as_the_whole_target_does(routed):
    model, params = routed
    inputs = TOKENS[0].astype(np.int32)
    decode = decoding.make_decode_fn(model, decoding_spec.GREEDY, max_decode_len=5)
    tokens = np.asarray(decode(params, inputs, np.arange(2, dtype=np.int32)))
    targets = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    logits = jax.jit(model.apply)({"params": params}, inputs, targets)
    best = np.argmax(logits, axis=-1)
    written = np.cumsum(tokens == 1, axis=-1) - (tokens == 1) == 0
    np.testing.assert_array_equal(tokens[written], best[written])


@pytest.mark.slow
def test_what_routers_see_and_say_is_observed_in_every_layer(routed):
    model, params = routed
    _, seen = model.apply({"params": params}, *TOKENS, mutable=[mixture.OBSERVED])
    places = mixture.observed(seen)
    assert {place.split("/")[0] for place in places} == {"encoder", "decoder"}
    for place, values in places.items():
        layers = 2 if place.startswith("encoder") else 1
        assert values["weights"].shape == values["norms"].shape
        assert values["weights"].shape[0] == layers
        assert values["weights"].shape[-1] == 3
        np.testing.assert_allclose(np.sum(values["weights"], axis=-1), 1, rtol=1e-5)


def test_every_parameter_of_a_mixture_is_placed_as_the_adapters_are():
    spec = KINDS["lora"]
    _, _, adapters = experts_of(spec, 3)
    for name, leaf in trees.flatten(mixture.stack(adapters)).items():
        alone = name.replace("/experts/", "/")
        axes = rules.logical_axes(alone, leaf.shape[:1] + leaf.shape[2:])
        assert rules.logical_axes(name, leaf.shape) == (
            axes[0],
            "experts",
            *axes[1:],
        )


def test_norms_of_experts_are_averaged_in_any_order():
    rng = np.random.default_rng(0)
    experts = [
        {"a_norm": {"scale": rng.normal(size=4).astype(np.float32)}} for _ in range(3)
    ]
    mean = mixture.stack(experts)["a_norm"]["scale"]
    np.testing.assert_allclose(
        mean, np.mean([e["a_norm"]["scale"] for e in experts], axis=0), rtol=1e-6
    )
    again = mixture.stack(experts[::-1])["a_norm"]["scale"]
    np.testing.assert_array_equal(again, mean)


def test_a_mixture_is_not_trained(routed):
    model, params = routed
    with pytest.raises(errors.ConfigError, match="mixture of experts in a training"):
        model.apply(
            {"params": params},
            *TOKENS,
            deterministic=False,
            rngs={"dropout": jax.random.key(0)},
        )


def test_the_layers_of_a_stack_keep_their_axis_in_front():
    _, _, adapters = experts_of(KINDS["serial"], 2)
    for name, leaf in trees.flatten(mixture.stack(adapters)).items():
        layers = 2 if name.startswith("encoder") else 1
        assert LAYERS in name
        assert leaf.shape[:2] == (layers, 2)
