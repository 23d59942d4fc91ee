"""(IA)3: what it scales and where, counts, start at the identity, refusals."""

import dataclasses

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import config, t5
from elm_jax.peft import ia3
from tests.peft.sample import SHAPE, TOKENS, random_params, run


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("activations", [("gelu", "linear"), ("relu",)])
def test_a_model_starts_bit_for_bit_as_its_base(activations, dtype):
    shape = dataclasses.replace(SHAPE, mlp_activations=activations, dtype=dtype)
    model = t5.T5(shape, ia3.Ia3(targets="/"))
    params = t5.init_params(model, seed=0)
    _, base = trees.split(params, "_adapter/")
    assert np.array_equal(run(model, params), run(t5.T5(shape), base))


@pytest.mark.slow
def test_factors_are_those_of_the_kernels_behind_or_before_them():
    model = t5.T5(SHAPE, ia3.Ia3())
    params = random_params(model)
    added, base = trees.split(params, "_adapter/")
    leaves = trees.flatten(base)
    for name, factors in trees.flatten(added).items():
        place = name.removesuffix("_adapter/ia3_scale")
        if place.endswith("/hidden"):
            kernel = f"{place.removesuffix('hidden')}wo/kernel"
            leaves[kernel] = leaves[kernel] * factors[:, :, None]
        else:
            leaves[f"{place}/kernel"] = leaves[f"{place}/kernel"] * factors[:, None, :]
    adapted, expected = run(model, params), run(t5.T5(SHAPE), trees.unflatten(leaves))
    # Products in another order.
    assert np.abs(adapted - expected).max() <= 1e-5 * np.abs(expected).max()


def test_every_place_can_have_them_and_acts_on_the_output():
    model = t5.T5(SHAPE, ia3.Ia3(targets="/"))
    params = random_params(model)
    leaves = trees.flatten(params)
    names = [name for name in leaves if name.endswith("ia3_scale")]
    assert len(names) == 4 + 4 + 4 + 4 + 4
    fn = jax.jit(lambda p: model.apply({"params": p}, *TOKENS))
    expected = fn(params)
    for name in names:
        changed = trees.unflatten({name: leaves[name] + 1})
        assert not np.allclose(fn(trees.replace(params, changed)), expected), name


def test_the_default_has_540_672_parameters_on_t5_xl():
    xl = config.T5Config(
        vocab_size=32128,
        emb_dim=2048,
        num_heads=32,
        head_dim=64,
        mlp_dim=5120,
        num_encoder_layers=24,
        num_decoder_layers=24,
    )
    added, _ = trees.split(t5.param_shapes(t5.T5(xl, ia3.Ia3())), "_adapter/")
    # Keys and values of 24 + 2 * 24 attentions, and the middle of 48 blocks.
    assert trees.count_params(added) == 72 * 2 * 2048 + 48 * 5120 == 540_672


@pytest.mark.parametrize(
    ("name", "value"), [("kind", "lora"), ("targets", "logits"), ("targets", "[")]
)
def test_a_wrong_field_is_named_with_its_value(name, value):
    with pytest.raises(errors.ConfigError, match=f"{name} = ") as caught:
        ia3.Ia3(**{name: value})
    assert repr(value) in str(caught.value)
