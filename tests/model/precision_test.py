"""Parameters in the compute dtype: the same bits come out of half of the memory."""

import dataclasses

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import config, loss, precision, scoring, t5
from elm_jax.peft import bottleneck, expert_parts, ia3, lora
from tests import drawn

SPECS = (bottleneck.Bottleneck(reduction_factor=4), lora.Lora(), ia3.Ia3())


def make(tiny, dtype, spec, **changes):
    shape = dataclasses.replace(tiny.config, dtype=dtype, **changes)
    model = t5.T5(shape, spec.adapter_fn(shape.emb_dim))
    params = jax.device_put(drawn.params_of(model, seed=0))
    return model, trees.split(params, expert_parts.PROMPT_EXPERT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "is_tied"),
    [*zip(SPECS, (False, True, False), strict=True)],
    ids=("bottleneck", "lora", "ia3"),
)
def test_the_loss_is_the_same_bits_and_gradients_differ_by_a_rounding_at_most(
    tiny, spec, is_tied
):
    changes = {"logits_via_embedding": is_tied, "relpos_per_layer": is_tied}
    model, (trained, frozen) = make(tiny, "bfloat16", spec, **changes)
    loss_fn = loss.make_loss_fn(model)

    @jax.jit
    def grad(trained, frozen):
        def loss_of(params):
            return loss_fn(trees.join(params, frozen), tiny.batch, None)[0]

        return jax.value_and_grad(loss_of)(trained)

    narrow = precision.in_compute_dtype(model.config, frozen)
    assert trees.count_bytes(narrow) < 0.7 * trees.count_bytes(frozen)
    loss_before, before = grad(trained, frozen)
    loss_now, now = grad(trained, narrow)
    np.testing.assert_array_equal(loss_now, loss_before)

    # Gradients are float32 sums (`float32_sums`), of terms between which XLA may leave
    # out a rounding to bfloat16 in the one program and not in the other.
    def check(now, before):
        most = float(np.abs(before).max())
        np.testing.assert_allclose(now, before, rtol=0, atol=2.0**-8 * most)

    jax.tree.map(check, now, before)


@pytest.mark.slow
def test_scores_are_the_same_bits(tiny):
    model, (trained, frozen) = make(tiny, "bfloat16", SPECS[0])
    params = trees.join(trained, frozen)
    choices = tiny.batch["decoder_target_tokens"][:, None]
    mask = np.ones(choices.shape[:2], bool)
    score = scoring.make_score_fn(model)
    arguments = (tiny.batch["encoder_input_tokens"], choices, mask)
    expected = score(params, *arguments)
    narrow = precision.in_compute_dtype(model.config, params)
    np.testing.assert_array_equal(score(narrow, *arguments), expected)


def test_float32_models_keep_what_they_have(tiny):
    cast = precision.in_compute_dtype(tiny.config, tiny.params)
    assert trees.fingerprint(cast) == trees.fingerprint(tiny.params)


@pytest.mark.slow
def test_shapes_are_cast_like_arrays():
    shape = config.T5Config(
        vocab_size=8,
        emb_dim=4,
        num_heads=1,
        head_dim=4,
        mlp_dim=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dtype="bfloat16",
    )
    model = t5.T5(shape)
    arrays = precision.in_compute_dtype(shape, t5.init_params(model, seed=0))
    shapes = precision.in_compute_dtype(shape, t5.param_shapes(model))
    dtypes = {n: leaf.dtype for n, leaf in trees.flatten(shapes).items()}
    assert dtypes == {n: leaf.dtype for n, leaf in trees.flatten(arrays).items()}
    wide = [name for name, dtype in dtypes.items() if dtype == "float32"]
    assert wide == ["decoder/logits_dense/kernel"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", [*SPECS, None], ids=("bottleneck", "lora", "ia3", "all")
)
def test_no_gradient_of_a_parameter_is_rounded_to_bfloat16(tiny, spec):
    """The cast of a parameter comes before the sum over tokens, and so over devices."""
    shape = dataclasses.replace(tiny.config, dtype="bfloat16")
    model = t5.T5(shape, spec and spec.adapter_fn(shape.emb_dim))
    params = jax.device_put(drawn.params_of(model, seed=0))
    pattern = expert_parts.PROMPT_EXPERT if spec else expert_parts.DATASET_EXPERT
    trained, frozen = trees.split(params, pattern)
    loss_fn = loss.make_loss_fn(model)

    @jax.jit
    def gradient(trained):
        def loss_of(trained):
            return loss_fn(trees.join(trained, frozen), tiny.batch, None)[0]

        return jax.grad(loss_of)(trained)

    rounded = [
        name
        for name, leaf in trees.flatten(gradient(trained)).items()
        if np.any(leaf) and np.array_equal(leaf, leaf.astype("bfloat16").astype("f4"))
    ]
    assert not rounded
