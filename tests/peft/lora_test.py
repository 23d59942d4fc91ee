"""LoRA: what it adds and where, counts, start at the identity, refusals."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import config, t5
from elm_jax.peft import lora
from tests.peft.sample import SHAPE, TOKENS, random_params, run


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_the_scaled_product_is_added(rank_stabilized):
    spec = lora.Lora(rank=4, alpha=6.0, rank_stabilized=rank_stabilized)
    rng = np.random.default_rng(0)
    x, y, a, b = (
        rng.normal(size=s).astype(np.float32)
        for s in ((2, 3, 8), (2, 3, 5), (8, 4), (4, 5))
    )
    outputs = lora.LoraAdapter(spec).apply({"params": {"lora_a": a, "lora_b": b}}, x, y)
    scale = 6.0 / (math.sqrt(4) if rank_stabilized else 4)
    # float32 sums of 8 and 4 products.
    np.testing.assert_allclose(outputs, y + scale * (x @ a @ b), rtol=1e-4, atol=1e-5)


def test_dropout_takes_whole_inputs_and_keeps_their_mean():
    spec = lora.Lora(rank=1, alpha=1.0, dropout=0.25)
    x, y = np.ones((1, 1000, 1), np.float32), np.zeros((1, 1000, 1), np.float32)
    params = {"lora_a": np.ones((1, 1)), "lora_b": np.ones((1, 1))}
    params = jax.tree.map(np.float32, params)
    outputs = lora.LoraAdapter(spec).apply(
        {"params": params},
        x,
        y,
        deterministic=False,
        rngs={"dropout": jax.random.key(0)},
    )
    assert set(np.unique(outputs)) == {np.float32(0), np.float32(1 / 0.75)}
    # A share of 1000 draws: four standard deviations are 0.055.
    assert abs(np.mean(outputs == 0) - 0.25) < 0.055


@pytest.mark.slow
def test_a_model_drops_nothing_when_it_scores():
    model = t5.T5(SHAPE, lora.Lora(dropout=0.5))
    params = random_params(model)
    expected = run(t5.T5(SHAPE, lora.Lora()), params)
    assert np.array_equal(run(model, params), expected)

    def train(key):
        return model.apply(
            {"params": params}, *TOKENS, deterministic=False, rngs={"dropout": key}
        )

    first, second = (jax.jit(train)(jax.random.key(n)) for n in (0, 1))
    assert not np.allclose(first, second)
    assert not np.allclose(first, expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("activations", [("gelu", "linear"), ("relu",)])
def test_a_model_starts_bit_for_bit_as_its_base(activations, dtype):
    shape = dataclasses.replace(SHAPE, mlp_activations=activations, dtype=dtype)
    model = t5.T5(shape, lora.Lora(targets="/"))
    params = t5.init_params(model, seed=0)
    added, base = trees.split(params, "_adapter/")
    assert all(
        np.any(leaf) == name.endswith("lora_a")
        for name, leaf in trees.flatten(added).items()
    )
    assert np.array_equal(run(model, params), run(t5.T5(shape), base))


def test_every_projection_can_have_it_and_acts_on_the_output():
    model = t5.T5(SHAPE, lora.Lora(targets="/"))
    params = random_params(model)
    leaves = trees.flatten(params)
    names = [name for name in leaves if name.endswith("lora_b")]
    assert len(names) == 4 + 3 + 4 + 4 + 3
    fn = jax.jit(lambda p: model.apply({"params": p}, *TOKENS))
    expected = fn(params)
    for name in names:
        changed = trees.unflatten({name: np.zeros_like(leaves[name])})
        assert not np.allclose(fn(trees.replace(params, changed)), expected), name


def test_targets_choose_projections_by_name():
    model = t5.T5(SHAPE, lora.Lora(targets="decoder/.*/query|wo$"))
    added, _ = trees.split(t5.param_shapes(model), "lora_a$")
    assert list(trees.flatten(added)) == [
        "decoder/layers/encoder_decoder_attention/query_adapter/lora_a",
        "decoder/layers/mlp/wo_adapter/lora_a",
        "decoder/layers/self_attention/query_adapter/lora_a",
        "encoder/layers/mlp/wo_adapter/lora_a",
    ]


def test_the_default_has_4_718_592_parameters_on_t5_xl():
    xl = config.T5Config(
        vocab_size=32128,
        emb_dim=2048,
        num_heads=32,
        head_dim=64,
        mlp_dim=5120,
        num_encoder_layers=24,
        num_decoder_layers=24,
    )
    shapes = t5.param_shapes(t5.T5(xl, lora.Lora(rank=8)))
    added, base = trees.split(shapes, "_adapter/")
    # Query and value of 24 + 2 * 24 attentions, each 2 matrices of 2048 x 8.
    assert trees.count_params(added) == 72 * 2 * 2 * 2048 * 8 == 4_718_592
    assert trees.count_params(base) == 2_849_757_184


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "bottleneck"),
        ("rank", 0),
        ("alpha", 0.0),
        ("dropout", 1.0),
        ("targets", "/hidden$"),
        ("targets", "(query"),
        ("targets", 3),
    ],
)
def test_a_wrong_field_is_named_with_its_value(name, value):
    with pytest.raises(errors.ConfigError, match=f"{name} = ") as caught:
        lora.Lora(**{name: value})
    assert repr(value) in str(caught.value)
