"""Routers by inputs, against LoGo in plain NumPy, and the laws of given weights."""

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import decoding, decoding_spec, scoring, t5
from elm_jax.peft import mixture
from elm_jax.routing import input_routers, token_routers
from tests.peft.mixed import KINDS, experts_of, mixed_model

EXPERTS = 4
# Two rows of unequal length, and one of padding alone.
INPUTS = np.zeros((3, 7), np.int32)
INPUTS[0, :7], INPUTS[1, :4] = np.arange(5, 12), np.arange(40, 44)
CHOICES = np.random.default_rng(3).integers(2, 96, (3, 2, 5)).astype(np.int32)
MASK = np.ones((3, 2), bool)


def mixture_of(kind, router):
    spec = KINDS[kind]
    _, base, adapters = experts_of(spec, EXPERTS)
    params = trees.join(base, mixture.stack(adapters))
    return mixed_model(spec, EXPERTS, router), params, adapters


def naive_effects(params, adapters, place, kind, row):
    """Returns each expert's effect on the real tokens of a row, float64 [E, T, D].

    The row alone goes through a model of even weights; the effects of its last layer's
    adapters come from their matrices, by NumPy.
    """
    tokens = row[row != 0][None]
    even = mixed_model(KINDS[kind], EXPERTS, token_routers.Fixed())
    _, seen = even.apply(
        {"params": params}, tokens, method=even.encode, mutable=[mixture.OBSERVED]
    )
    read = np.asarray(mixture.observed(seen)[place]["read"][-1, 0], np.float64)
    effects = []
    for expert in adapters:
        part = {
            name.removeprefix(f"{place}/"): np.asarray(leaf[-1], np.float64)
            for name, leaf in trees.flatten(expert).items()
            if name.startswith(f"{place}/")
        }
        if "lora_a" in part:
            scale = KINDS[kind].scale
            effects.append(scale * (read @ part["lora_a"] @ part["lora_b"]))
        else:
            h = read @ part["down/kernel"] + part["down/bias"]
            gelu = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
            effects.append(gelu @ part["up/kernel"] + part["up/bias"])
    return np.stack(effects)


def naive_logo(effects, router):
    """Returns the weights of one input as the paper has them."""
    if router.signal == "norm":
        of_tokens = np.sqrt((effects**2).sum(axis=-1))
    else:
        powers = np.exp(effects - effects.max(axis=-1, keepdims=True))
        p = powers / powers.sum(axis=-1, keepdims=True)
        of_tokens = 1 / (-(p * np.log(p)).sum(axis=-1) + 1e-6)
    signals = of_tokens[:, -1] if router.token == "last" else of_tokens.mean(axis=1)
    weights = np.zeros(EXPERTS)
    first = np.argsort(-signals, kind="stable")[: router.top_k]
    weights[first] = signals[first] / signals[first].sum()
    return weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "place", "signal", "token"),
    [
        ("serial", "attention", "norm", "last"),
        ("serial", "attention", "inverse_entropy", "mean"),
        ("lora", "attention/query", "norm", "mean"),
        ("lora", "attention/query", "inverse_entropy", "last"),
    ],
)
def test_weights_are_those_of_the_paper_in_plain_numpy(kind, place, signal, token):
    """Each row alone and unpadded, against all in one batch."""
    router = input_routers.Logo(top_k=2, signal=signal, token=token)
    model, params, adapters = mixture_of(kind, router)
    weights = input_routers.make_weigh_fn(model, router)(params, INPUTS)
    assert weights.shape == (len(INPUTS), EXPERTS)
    for row, of_batch in zip(INPUTS[:2], weights, strict=False):
        place_of = f"encoder/layers/{place}_adapter"
        effects = naive_effects(params, adapters, place_of, kind, row)
        # Float32, through the layers before and squares of sums.
        np.testing.assert_allclose(
            of_batch, naive_logo(effects, router), rtol=2e-4, atol=2e-5
        )
    assert np.isfinite(weights).all()  # also of padding


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["serial", "lora", "ia3", "of_a_user"])
def test_each_input_is_scored_as_by_its_own_fixed_weights(kind):
    place = {"ia3": "attention/key", "of_a_user": "mlp/wo"}.get(kind, "")
    router = input_routers.Logo(top_k=2, place=place)
    model, params, _ = mixture_of(kind, router)
    program, spec = scoring.make_score_fn(model), model.adapters.spec
    score = input_routers.weighing_first(program, model, spec)
    scores = score(params, INPUTS, CHOICES, MASK)
    weights = np.asarray(input_routers.make_weigh_fn(model, router)(params, INPUTS))
    assert not np.allclose(weights[0], weights[1], atol=1e-4)  # else nothing is shown
    for row in range(2):
        fixed = token_routers.Fixed(weights=tuple(weights[row].tolist()))
        alone = scoring.make_score_fn(mixed_model(KINDS[kind], EXPERTS, fixed))
        part = slice(row, row + 1)
        expected = alone(params, INPUTS[part], CHOICES[part], MASK[part])
        np.testing.assert_allclose(scores[part], expected, rtol=1e-4)


@pytest.mark.slow
def test_decoding_writes_what_its_own_fixed_weights_write():
    router = input_routers.Logo(top_k=2)
    model, params, _ = mixture_of("serial", router)
    ids = np.arange(3, dtype=np.int32)

    def decoder(of):
        return decoding.make_decode_fn(of, decoding_spec.GREEDY, max_decode_len=6)

    spec = model.adapters.spec
    decode = input_routers.weighing_first(decoder(model), model, spec)
    written = decode(params, INPUTS, ids)
    weights = np.asarray(input_routers.make_weigh_fn(model, router)(params, INPUTS))
    for row in range(2):
        fixed = token_routers.Fixed(weights=tuple(weights[row].tolist()))
        alone = decoder(mixed_model(KINDS["serial"], EXPERTS, fixed))
        part = slice(row, row + 1)
        expected = alone(params, INPUTS[part], ids[part])
        np.testing.assert_array_equal(written[part], expected)


@pytest.mark.slow
def test_the_chosen_experts_alone_give_the_same_scores():
    router = input_routers.Logo(top_k=2)
    _, base, adapters = experts_of(KINDS["serial"], EXPERTS)
    params = trees.join(base, mixture.stack(adapters))
    scores = []
    for only_chosen in (False, True):
        model = mixed_model(KINDS["serial"], EXPERTS, router, only_chosen=only_chosen)
        program = scoring.make_score_fn(model)
        score = input_routers.weighing_first(program, model, model.adapters.spec)
        scores.append(score(params, INPUTS, CHOICES, MASK))
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4)


def test_padding_and_the_rest_of_a_batch_change_no_weight():
    router = input_routers.Logo(top_k=3, token="mean")
    model, params, _ = mixture_of("serial", router)
    weigh = jax.jit(input_routers.make_weigh_fn(model, router))
    together = weigh(params, INPUTS)
    wider = weigh(params, np.pad(INPUTS[1:2], ((0, 0), (0, 5))))
    np.testing.assert_allclose(wider[0], together[1], rtol=1e-4, atol=1e-6)


def test_shares_keep_the_greatest_and_their_proportions():
    signals = np.array([[1.0, 3.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    two = input_routers.shares(signals, 2)
    np.testing.assert_allclose(two, [[0, 0.6, 0, 0.4], [0.5, 0.5, 0, 0]], rtol=1e-6)
    every = input_routers.shares(signals, -1)
    np.testing.assert_allclose(every[0], [1 / 6, 1 / 2, 0, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(input_routers.shares(signals, 9), every)


def test_a_place_without_adapters_is_refused():
    router = input_routers.Logo(place="mlp/hidden")
    model, params, _ = mixture_of("serial", router)
    with pytest.raises(errors.ConfigError, match=r"Logo\.place"):
        input_routers.make_weigh_fn(model, router)(params, INPUTS)


def test_other_programs_are_left_as_they_are():
    model, _, _ = mixture_of("serial", token_routers.EffectNorm())
    program = scoring.make_score_fn(model)
    assert input_routers.weighing_first(program, model, model.adapters.spec) is program
    assert input_routers.weighing_first(program, t5.T5(model.config), None) is program
