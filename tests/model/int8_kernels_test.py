"""Matrices as int8: what they stand for, what is computed of them, what they take."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import config, cost, int8_kernels, kept, loss, precision, t5
from elm_jax.peft import bottleneck, expert_parts, ia3, lora
from tests import drawn

SPECS = (bottleneck.Bottleneck(reduction_factor=4), lora.Lora(), ia3.Ia3())
BASE = ("", "int8")


def stack(seed=0, shape=(3, 24, 40)):
    """Makes matrices whose outputs have very different sizes, some of them zero."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=shape) * 10.0 ** rng.uniform(
        -6, 3, (shape[0], 1, shape[2])
    )
    kernel[0, :, 7] = 0
    return kernel.astype(np.float32)


def rounded(kernel):
    """The reference: NumPy, in float64. The largest number is 127.5 scales."""
    scales = np.abs(kernel.astype(np.float64)).max(axis=-2) / 127.5
    divided = kernel / np.where(scales, scales, 1)[..., None, :]
    return np.clip(np.rint(divided), -128, 127), scales


def whole(kernel):
    return kernel.values.astype(np.float64) * kernel.scales[..., None, :]


def test_no_value_is_further_than_half_a_scale_from_what_it_stands_for():
    kernel = stack()
    held = int8_kernels.held(kernel)
    values, scales = rounded(kernel)
    is_zero = scales == 0
    np.testing.assert_allclose(held.scales[~is_zero], scales[~is_zero], rtol=3e-7)
    # Half a scale, such as the largest of an output, may go to either side.
    assert np.abs(held.values - values).max() <= 1
    errors_in_scales = (
        np.abs(whole(held) - kernel) / np.where(is_zero, 1, scales)[:, None]
    )
    assert errors_in_scales.max() <= 0.5 + 1e-4
    assert not held.values[0, :, 7].any()


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_a_stack_has_the_bits_of_its_matrices_alone_and_the_shapes_that_are_planned(
    kind,
):
    kernel = stack().astype(jnp.bfloat16)
    held = int8_kernels.held(kind(kernel))
    for number in range(3):
        alone = int8_kernels.held(kernel[number : number + 1])
        np.testing.assert_array_equal(alone.values[0], held.values[number])
        np.testing.assert_array_equal(alone.scales[0], held.scales[number])
    planned = int8_kernels.held_shape(kernel)
    assert [(a.shape, a.dtype) for a in held] == [(a.shape, a.dtype) for a in planned]


def test_products_and_their_gradients_are_those_of_what_the_values_stand_for():
    held = int8_kernels.held(stack())
    values, scales = held.values[1], held.scales[1]
    matrix = values.astype(np.float64) * scales
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(5, 24)).astype(np.float32)
    grads = rng.normal(size=(5, 40)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        outputs, backward = jax.vjp(
            lambda rows: int8_kernels.product(rows, values, scales), rows
        )
        [of_rows] = backward(grads)
    # Roundings of float32 sums of 24 and 40 terms.
    most = np.abs(rows) @ np.abs(matrix)
    np.testing.assert_array_less(np.abs(outputs - rows @ matrix), 1e-6 * most)
    most = np.abs(grads) @ np.abs(matrix.T)
    np.testing.assert_array_less(np.abs(of_rows - grads @ matrix.T), 1e-6 * most)


def test_all_matrices_of_layers_are_held_and_none_of_adapters(tiny):
    for spec in SPECS:
        model = t5.T5(tiny.config, spec.adapter_fn(tiny.config.emb_dim))
        for name in trees.flatten(t5.param_shapes(model)):
            is_adapter = "_adapter/" in name
            is_matrix = name.endswith("/kernel") and "/layers/" in name
            assert int8_kernels.is_held(name) == (is_matrix and not is_adapter)
    one_input = dataclasses.replace(tiny.config, mlp_activations=("relu",))
    assert int8_kernels.is_held("encoder/layers/mlp/wi/kernel")
    names = trees.flatten(t5.param_shapes(t5.T5(one_input)))
    assert "encoder/layers/mlp/wi/kernel" in names


def make(tiny, spec, dtype="bfloat16", **changes):
    shape = dataclasses.replace(tiny.config, dtype=dtype, **changes)
    model = t5.T5(shape, spec.adapter_fn(shape.emb_dim))
    # Adapters that change something, over the weights of the tiny model.
    params = trees.replace(drawn.params_of(model, seed=0), tiny.params)
    return model, trees.split(params, expert_parts.PROMPT_EXPERT)


def loss_and_grads(tiny, model, trained, frozen):
    loss_fn = loss.make_loss_fn(model)

    @jax.jit
    def grad(trained, frozen):
        def loss_of(params):
            return loss_fn(trees.join(params, frozen), tiny.batch, None)[0]

        return jax.value_and_grad(loss_of)(trained)

    return grad(trained, precision.in_compute_dtype(model.config, frozen))


def flat(tree):
    return np.concatenate([np.ravel(a) for a in trees.flatten(tree).values()])


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS[:2], ids=("bottleneck", "lora"))
def test_loss_is_within_a_hundredth_of_bfloat16_and_gradients_are_close(tiny, spec):
    by_dtype = {}
    for base_dtype in BASE:
        model, (trained, frozen) = make(tiny, spec, base_dtype=base_dtype)
        by_dtype[base_dtype] = loss_and_grads(tiny, model, trained, frozen)
    (plain_loss, plain), (int8_loss, int8) = [
        (float(x), y) for x, y in by_dtype.values()
    ]
    assert int8_loss == pytest.approx(plain_loss, rel=0.01)
    assert int8_loss != plain_loss
    before, now = flat(plain), flat(int8)
    assert np.isfinite(now).all()
    # Weights are off by up to 1/255 of the largest of their output: a few percent.
    assert np.linalg.norm(now - before) < 0.1 * np.linalg.norm(before)


@pytest.mark.slow
def test_a_model_is_that_of_the_float_matrices_that_its_values_stand_for(tiny):
    """In float32, to its roundings, in loss and in gradients of adapters."""
    model, (trained, frozen) = make(tiny, SPECS[1], "float32", base_dtype="int8")
    held = trees.flatten(precision.in_compute_dtype(model.config, frozen))
    floats = {
        n: a if a.dtype != np.int8 else a * held[int8_kernels.scale_of(n)][:, None]
        for n, a in held.items()
        if int8_kernels.matrix_of(n) == n
    }
    plain = model.clone(config=dataclasses.replace(model.config, base_dtype=""))
    expected = loss_and_grads(tiny, plain, trained, trees.unflatten(floats))
    computed = loss_and_grads(tiny, model, trained, frozen)
    np.testing.assert_allclose(computed[0], expected[0], rtol=1e-6)
    most = np.abs(flat(expected[1])).max()
    np.testing.assert_allclose(flat(computed[1]), flat(expected[1]), atol=1e-5 * most)


@pytest.mark.slow
@pytest.mark.parametrize("remat", config.REMATS)
def test_lanes_and_recomputation_give_what_an_expert_alone_has(tiny, remat):
    dtypes = {"base_dtype": "int8", "dtype": "float32"}
    model, (trained, frozen) = make(tiny, SPECS[0], **dtypes, remat=remat)
    again = jax.tree.map(lambda leaf: 1.1 * leaf, trained)
    loss_fn = loss.make_loss_fn(model)
    held = precision.in_compute_dtype(model.config, frozen)

    def gradient(params):
        return jax.grad(lambda p: loss_fn(trees.join(p, held), tiny.batch, None)[0])(
            params
        )

    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), trained, again)
    together = jax.jit(jax.vmap(gradient))(lanes)
    plain, (same, _) = make(tiny, SPECS[0], **dtypes, remat="none")
    for number, params in enumerate((trained, again)):
        alone = flat(loss_and_grads(tiny, plain, params, frozen)[1])
        lane = flat(jax.tree.map(lambda leaf, n=number: leaf[n], together))
        np.testing.assert_allclose(lane, alone, atol=1e-5 * np.abs(alone).max())


@pytest.mark.slow
@pytest.mark.parametrize("remat", config.REMATS)
def test_no_copy_of_the_base_is_alive_in_a_step(remat):
    """Of a model of many layers and few tokens, by the compiler and by the plan."""
    shape = config.T5Config(
        vocab_size=64,
        emb_dim=128,
        num_heads=2,
        head_dim=64,
        mlp_dim=256,
        num_encoder_layers=16,
        num_decoder_layers=16,
        remat=remat,
        base_dtype="int8",
    )
    model = t5.T5(shape, SPECS[0].adapter_fn(shape.emb_dim))
    parts = expert_parts.split(t5.param_shapes(model), expert_parts.PROMPT_EXPERT)
    trained, frozen = parts[0], precision.in_compute_dtype(shape, parts[1])
    batch = cost.batch_arrays(
        cost.BatchShape(batch_size=1, inputs_length=8, targets_length=8)
    )
    loss_fn = loss.make_loss_fn(model)

    def step(trained, frozen, batch):
        return jax.grad(lambda p: loss_fn(trees.join(p, frozen), batch, None)[0])(
            trained
        )

    compiled = jax.jit(step).lower(trained, frozen, batch).compile()
    values = [a for a in trees.flatten(frozen).values() if a.dtype == np.int8]
    num_values = sum(a.size for a in values)
    temporary_bytes = compiled.memory_analysis().temp_size_in_bytes
    # As many bytes as int8 values: a copy in bfloat16 would take twice that.
    assert temporary_bytes < num_values
    _, copies = kept.trace(model, batch, trained=frozenset(trees.flatten(trained)))
    assert copies.total(16, 16) == 0


def test_a_missing_package_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(errors.MissingExtraError, match="extra `quantized`"):
        int8_kernels.held(stack())
