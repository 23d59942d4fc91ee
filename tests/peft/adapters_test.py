"""Kinds of adapters: found by name, whole in JSON, everywhere the model goes."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import t5
from elm_jax.peft import adapters, bottleneck, expert_parts, ia3, lora, points
from tests.peft.sample import SHAPE, TOKENS, random_params, run

SPECS = (
    bottleneck.Bottleneck(points=points.SUB_LAYERS),
    bottleneck.Bottleneck(points=points.SUB_LAYERS, parallel=True),
    lora.Lora(targets="/"),
    ia3.Ia3(targets="/"),
)


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_survives_json(spec):
    fields = json.loads(json.dumps(dataclasses.asdict(spec)))
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
    assert adapters.spec_type(fields["kind"])(**values) == spec


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_cached_decoding_gives_the_logits_of_one_pass(spec):
    model = t5.T5(SHAPE, spec.adapter_fn(SHAPE.emb_dim))
    params = random_params(model)
    inputs, targets = TOKENS
    expected = run(model, params)

    @jax.jit
    def start(params):
        return model.apply(
            {"params": params},
            inputs,
            max_decode_len=targets.shape[1],
            method="start_decoding",
        )

    @jax.jit
    def step(params, tokens, position, cache):
        return model.apply(
            {"params": params}, inputs, tokens, position, cache, method="decode_step"
        )

    cache = start(params)
    for position in range(targets.shape[1]):
        logits, cache = step(params, targets[:, position], position, cache)
        error = np.abs(logits - expected[:, position]).max()
        # Sums in another order.
        assert error <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("spec", SPECS)
def test_adding_adapters_leaves_the_names_and_shapes_of_the_base(spec):
    shapes = t5.param_shapes(t5.T5(SHAPE, spec.adapter_fn(SHAPE.emb_dim)))
    added, base = trees.split(shapes, expert_parts.ADAPTERS)
    assert added
    assert not trees.diff(base, t5.param_shapes(t5.T5(SHAPE)))


@pytest.mark.slow
def test_a_bottleneck_can_start_bit_for_bit_as_the_base():
    for spec in SPECS[:2]:
        exact = dataclasses.replace(spec, start_at_identity=True)
        model = t5.T5(SHAPE, exact.adapter_fn(SHAPE.emb_dim))
        params = t5.init_params(model, seed=0)
        _, base = trees.split(params, expert_parts.ADAPTERS)
        assert np.array_equal(run(model, params), run(t5.T5(SHAPE), base))


def test_an_unknown_kind_is_refused_with_the_nearest_one():
    with pytest.raises(errors.ConfigError, match="Did you mean: lora"):
        adapters.spec_type("loar")


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_choices_of_one_input_are_scored_as_each_alone(spec):
    model = t5.T5(SHAPE, spec.adapter_fn(SHAPE.emb_dim))
    params = {"params": random_params(model)}
    inputs, choices = TOKENS[0], np.arange(2, 14).reshape(4, 3)  # two of each input

    @jax.jit
    def together(params):
        encoded = model.apply(params, inputs, method="encode")
        return model.apply(params, encoded, inputs, choices, method="decode")

    alone = jax.jit(model.apply)(params, inputs.repeat(2, axis=0), choices)
    # Sums in another order.
    assert np.abs(together(params) - alone).max() <= 1e-5 * np.abs(alone).max()
