"""Bottleneck adapters: where they sit, how they start, what a spec refuses."""

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import t5
from elm_jax.peft import bottleneck, points
from tests.peft.sample import SHAPE, TOKENS


@pytest.fixture(scope="module")
def adapted():
    """A model with every adapter there can be, its parameters and its compiled run."""
    spec = bottleneck.Bottleneck(points=points.SUB_LAYERS)
    model = t5.T5(SHAPE, spec.adapter_fn(SHAPE.emb_dim))
    params = t5.init_params(model, seed=0)
    return model, params, jax.jit(lambda p: model.apply({"params": p}, *TOKENS))


@pytest.mark.slow
def test_an_adapter_starts_near_the_identity(adapted):
    model, params, run = adapted
    plain_model = t5.T5(SHAPE)
    _, base = trees.split(params, "_adapter/")
    plain = jax.jit(plain_model.apply)({"params": base}, *TOKENS)
    change = np.abs(run(params) - plain)
    assert 0 < change.max() < 0.02 * np.abs(plain).max()


@pytest.mark.slow
def test_the_base_is_the_same_with_and_without_adapters(adapted):
    _, params, _ = adapted
    _, base = trees.split(params, "_adapter/")
    assert not trees.diff(base, t5.param_shapes(t5.T5(SHAPE)))


@pytest.mark.slow
def test_every_adapter_acts_on_the_output(adapted):
    _, params, run = adapted
    expected = run(params)
    biases = [n for n in trees.flatten(params) if n.endswith("_adapter/up/bias")]
    assert len(biases) == 5
    for name in biases:
        bias = trees.flatten(params)[name].at[0].add(1.0)
        changed = trees.replace(params, trees.unflatten({name: bias}))
        assert not np.allclose(run(changed), expected)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [False, True])
def test_an_adapter_is_down_activation_up_and_the_output(parallel):
    spec = bottleneck.Bottleneck(init_std=0.5, parallel=parallel)
    module = bottleneck.BottleneckAdapter(4, spec)
    rng = np.random.default_rng(0)
    inputs, outputs = rng.normal(size=(2, 2, 3, 8)).astype(np.float32)
    variables = module.init(jax.random.key(0), inputs, outputs)
    down, up = (variables["params"][name] for name in ("down", "up"))
    assert not np.any(down["bias"])
    assert not np.any(up["bias"])
    h = (inputs if parallel else outputs) @ np.asarray(down["kernel"])
    # gelu_new, in full.
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    np.testing.assert_allclose(
        module.apply(variables, inputs, outputs),
        outputs + h @ np.asarray(up["kernel"]),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.slow
def test_initial_kernels_have_the_paper_s_spread(adapted):
    _, params, _ = adapted
    for name, leaf in trees.flatten(params).items():
        if "_adapter/" in name and name.endswith("kernel"):
            assert leaf.shape[1:] in ((64, 2), (2, 64))
            np.testing.assert_allclose(leaf.std(), 0.01, rtol=0.25, err_msg=name)


def test_bfloat16_compute_keeps_float32_parameters():
    module = bottleneck.BottleneckAdapter(4, bottleneck.Bottleneck(activation="relu"))
    x = np.ones((1, 2, 8), "bfloat16")
    out, variables = module.init_with_output(jax.random.key(0), x, x)
    assert out.dtype == x.dtype
    leaves = jax.tree.leaves(variables)
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "lora"),
        ("reduction_factor", 0),
        ("activation", "gelu_new"),
        ("init_std", -1.0),
        ("points", ("encoder/attention",)),
        ("points", ["encoder/mlp"]),
        ("points", ()),
    ],
)
def test_a_wrong_field_is_named_with_its_value(name, value):
    with pytest.raises(errors.ConfigError, match=f"{name} = ") as caught:
        bottleneck.Bottleneck(**{name: value})
    assert repr(value) in str(caught.value)


def test_a_width_that_the_factor_does_not_divide_is_refused():
    with pytest.raises(errors.ConfigError, match="width of 100"):
        bottleneck.Bottleneck().adapter_fn(100)
