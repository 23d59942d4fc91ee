"""Experts: which parameters they are, counted on the paper's model."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import config, loss, t5
from elm_jax.peft import bottleneck, expert_parts, lora

XL = config.T5Config(
    vocab_size=32128,
    emb_dim=2048,
    num_heads=32,
    head_dim=64,
    mlp_dim=5120,
    num_encoder_layers=24,
    num_decoder_layers=24,
)


@pytest.fixture(scope="module")
def xl_expert():
    model = t5.T5(XL, bottleneck.Bottleneck().adapter_fn(XL.emb_dim))
    return trees.split(t5.param_shapes(model), expert_parts.PROMPT_EXPERT)


def test_a_prompt_expert_of_t5_xl_has_25_618_432_parameters(xl_expert):
    expert, base = xl_expert
    assert trees.count_params(expert) == 25_618_432
    assert trees.count_params(base) == 2_849_757_184 - 122 * 2048


def test_a_prompt_expert_of_t5_xl_has_96_adapters_and_506_tensors(xl_expert):
    leaves = trees.flatten(xl_expert[0])
    num = {
        name: leaf.shape[0] if "/layers/" in name else 1
        for name, leaf in leaves.items()
    }
    assert sum(n for name, n in num.items() if "_adapter/down/kernel" in name) == 96
    assert sum(n for name, n in num.items() if name.endswith("_norm/scale")) == 122
    assert sum(num.values()) == 96 * 4 + 122 == 506
    assert not [name for name in leaves if "cross_attention_adapter" in name]


def test_a_dataset_expert_is_everything(xl_expert):
    whole = trees.join(*xl_expert)
    expert, rest = trees.split(whole, expert_parts.DATASET_EXPERT)
    assert expert == whole
    assert rest == {}


@pytest.mark.slow
def test_an_expert_s_gradient_is_that_of_the_whole_model():
    shape = config.T5Config(
        vocab_size=32,
        emb_dim=32,
        num_heads=2,
        head_dim=8,
        mlp_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
    )
    model = t5.T5(shape, bottleneck.Bottleneck().adapter_fn(32))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32),
        t5.param_shapes(model),
    )
    tokens = np.arange(2, 10).reshape(2, 4)
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": np.ones((2, 4), np.float32),
    }
    loss_fn = loss.make_loss_fn(model)

    @jax.jit
    def gradients(expert, rest):
        def value(part):
            return loss_fn(trees.join(part, rest), batch, None)[0]

        whole = jax.grad(lambda p: loss_fn(p, batch, None)[0])(trees.join(expert, rest))
        return jax.grad(value)(expert), whole

    expert, rest = trees.split(params, expert_parts.PROMPT_EXPERT)
    part, whole = map(trees.flatten, gradients(expert, rest))
    assert set(part) < set(whole)
    for name, leaf in part.items():
        assert re.search(expert_parts.PROMPT_EXPERT, name)
        assert jnp.any(leaf != 0)
        largest = np.abs(whole[name]).max()
        np.testing.assert_allclose(leaf, whole[name], atol=1e-5 * largest)


def test_norms_only_are_the_122_layer_norms(xl_expert):
    norms, rest = trees.split(trees.join(*xl_expert), expert_parts.NORMS)
    assert trees.count_params(norms) == 122 * 2048 == 249_856
    assert all("_adapter/" in n or "norm" not in n for n in trees.flatten(rest))


def test_adapters_alone_are_a_prompt_expert_without_norms(xl_expert):
    alone, _ = trees.split(xl_expert[0], expert_parts.ADAPTERS)
    assert trees.count_params(alone) == 25_368_576
    assert trees.count_params(xl_expert[0]) == 25_368_576 + 249_856


def test_an_expert_without_parameters_is_refused():
    plain = t5.T5(XL, lora.Lora(targets="mlp/wi$"))
    with pytest.raises(errors.ConfigError, match="wi_0 and wi_1"):
        expert_parts.split(t5.param_shapes(plain), expert_parts.ADAPTERS)


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(errors.ConfigError, match="Did you mean: adapters"):
        expert_parts.trainable_pattern("adapter")


@pytest.mark.usefixtures("short_limits")
def test_a_pattern_of_a_manifest_that_takes_for_ever_is_an_error_that_names_it():
    shapes = t5.param_shapes(t5.T5(XL))
    message = r"expert 'x' with the trainable_pattern .*too much: .* 0\.3 s of CPU"
    with pytest.raises(errors.CheckpointError, match=message):
        expert_parts.part(shapes, r"([\w/]+)+!", of="expert 'x'")
    norms = expert_parts.part(shapes, r"norm/", of="expert 'x'")
    assert norms == expert_parts.part(shapes, expert_parts.NORMS, of="expert 'x'")
