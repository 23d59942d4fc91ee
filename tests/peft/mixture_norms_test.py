"""Layer norms of mixed experts: the weighted means of their scales."""

import dataclasses

import jax
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import scoring, t5
from elm_jax.partitioning import rules
from elm_jax.peft import mixture
from elm_jax.routing import input_routers, token_routers
from tests.peft.mixed import (
    CLOSE,
    KINDS,
    experts_of,
    mixed_model,
    with_routed_norms,
)
from tests.peft.sample import run

SPEC = KINDS["serial"]
EVEN = token_routers.Fixed()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByGate(mixture.Router):
    """Weights by a number of each expert and the first channel; sums are not 1."""

    def shapes(self, width):
        return {"gate": (width,)}

    def weigh(self, params, read, norms, count):
        return jax.numpy.einsum("...d,ed->...e", read, params["gate"])


def alone(number, count=3):
    """Returns the logits of one of some prompt experts."""
    model, base, experts = experts_of(SPEC, count, "adapters_and_norms")
    return run(model, trees.join(base, experts[number]))


@pytest.mark.slow
@pytest.mark.optimized
def test_one_expert_of_weight_1_is_that_expert_with_its_norms_bit_for_bit():
    model, params = with_routed_norms(SPEC, 1, EVEN)
    assert not any(trees.diff(params, t5.param_shapes(model)))
    np.testing.assert_array_equal(run(model, params), alone(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 2])
def test_weight_1_for_one_of_three_is_that_expert_with_its_norms(number):
    weights = tuple(np.eye(3)[number].tolist())
    model, params = with_routed_norms(SPEC, 3, token_routers.Fixed(weights=weights))
    np.testing.assert_allclose(run(model, params), alone(number), **CLOSE)


@pytest.mark.slow
def test_even_weights_are_averaged_norms():
    model, params = with_routed_norms(SPEC, 3, EVEN)
    _, base, experts = experts_of(SPEC, 3, "adapters_and_norms")
    averaged = mixed_model(SPEC, 3, EVEN), trees.join(base, mixture.stack(experts))
    np.testing.assert_allclose(run(model, params), run(*averaged), **CLOSE)


@pytest.mark.slow
def test_each_input_has_the_norms_of_its_own_weights_at_all_places():
    """Two inputs with an expert each, three answer choices of both."""
    model, params = with_routed_norms(SPEC, 3, input_routers.Logo())
    weights = np.eye(3, dtype=np.float32)[[2, 0]]
    weighed = trees.join(params, mixture.weights_of_inputs(params, weights))
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, 96, (2, 7)).astype(np.int32)
    rows = (
        inputs,
        rng.integers(2, 96, (2, 3, 5)).astype(np.int32),
        np.ones((2, 3), bool),
    )
    scores = scoring.make_score_fn(model)(weighed, *rows)
    plain, base, experts = experts_of(SPEC, 3, "adapters_and_norms")
    for row, number in enumerate((2, 0)):
        whole = trees.join(base, experts[number])
        expected = scoring.make_score_fn(plain)(whole, *rows)[row]
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4)


@pytest.mark.slow
def test_experts_without_a_weight_that_are_not_computed_change_no_norm():
    gates = token_routers.Gates(top_k=1)
    options = {"reads": "sub_layer"}
    model, params = with_routed_norms(SPEC, 3, gates, **options)
    rng = np.random.default_rng(0)
    params = jax.tree.map_with_path(
        lambda path, leaf: (
            rng.normal(size=leaf.shape).astype(np.float32)
            if "router" in jax.tree_util.keystr(path)
            else leaf
        ),
        trees.replace(zeros_of(model), params),
    )
    few, _ = with_routed_norms(SPEC, 3, gates, only_chosen=True, **options)
    np.testing.assert_allclose(run(few, params), run(model, params), **CLOSE)


def zeros_of(model):
    shapes = t5.param_shapes(model)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def test_a_norm_asks_the_router_behind_it_by_what_the_mean_scale_would_give():
    """Against NumPy; what weights lack to a sum of 1 goes to the mean scale."""
    spec = mixture.Mixture(of=SPEC, num_experts=3, router=ByGate(), routes_norms=True)
    module = spec.adapter_fn(64).routed_norm("encoder/mlp", name="x_norm")
    rng = np.random.default_rng(0)
    divided = rng.normal(size=(2, 5, 64)).astype(np.float32)
    scales, gates = rng.normal(size=(2, 3, 64)).astype(np.float32)
    params = {"experts": {"scale": scales}, "router": {"gate": gates}}
    normed = module.apply({"params": params}, divided)
    exact = divided.astype(np.float64)
    mean = scales.astype(np.float64).mean(axis=0)
    weights = (exact * mean) @ gates.T.astype(np.float64)
    assert np.abs(weights.sum(axis=-1) - 1).min() > 0.01
    expected = exact * (mean + weights @ (scales - mean))
    close = 1e-5 * np.abs(expected).max()  # float32, and sums of some hundred terms
    np.testing.assert_allclose(normed, expected, rtol=0, atol=close)


def test_norms_with_no_adapter_behind_them_are_averaged_by_routers_of_tokens():
    spec = KINDS["parallel"]  # which has none at cross-attention
    model, params = with_routed_norms(spec, 2, token_routers.Gates(), reads="sub_layer")
    assert not trees.diff(params, t5.param_shapes(model)).extra
    places = mixture.norms_of(t5.param_shapes(model))
    assert places == {
        f"{stack}/layers/pre_{part}_layer_norm": f"{stack}/layers/{part}_adapter"
        for stack, part in (
            *(("encoder", "attention"), ("encoder", "mlp")),
            *(("decoder", "self_attention"), ("decoder", "mlp")),
        )
    }
    others = [name for name in trees.flatten(params) if name.endswith("_norm/scale")]
    assert sorted(others) == [
        "decoder/decoder_norm/scale",
        "decoder/layers/pre_cross_attention_layer_norm/scale",
        "encoder/encoder_norm/scale",
    ]
    everywhere = mixed_model(spec, 2, EVEN, routes_norms=True)
    assert len(mixture.norms_of(t5.param_shapes(everywhere))) == 4 + len(others)


def test_norms_without_a_router_are_refused():
    with pytest.raises(errors.ConfigError, match="no layer norm has"):
        mixed_model(SPEC, 2, token_routers.EffectNorm(), routes_norms=True)
    with pytest.raises(errors.ConfigError, match="none of them at a sub-layer"):
        mixed_model(KINDS["lora"], 2, token_routers.Gates(), routes_norms=True)
    mixed_model(KINDS["lora"], 2, token_routers.FirstStage(), routes_norms=True)


@pytest.mark.parametrize("router", [token_routers.Gates(), token_routers.FirstStage()])
def test_parameters_of_routed_norms_are_placed(router):
    model = mixed_model(SPEC, 2, router, routes_norms=True)
    leaves = trees.flatten(t5.param_shapes(model))
    axes = {
        name: rules.logical_axes(name, leaf.shape)
        for name, leaf in leaves.items()
        if "_norm/" in name
    }
    norm = "encoder/layers/pre_mlp_layer_norm"
    assert axes[f"{norm}/experts/scale"] == ("layers", "experts", "embed")
    for name, of_leaf in axes.items():
        if "/router/" in name:
            adapter = leaves.keys() & {name.replace(norm, "encoder/layers/mlp_adapter")}
            assert of_leaf[-2:].count("experts") + of_leaf[:1].count("experts") >= 1
            for same in adapter:
                assert rules.logical_axes(same, leaves[same].shape) == of_leaf


def test_the_order_of_experts_and_weights_changes_nothing():
    weights = (0.5, 0.3, 0.2)
    outputs = []
    for order in ([0, 1, 2], [2, 0, 1]):
        router = token_routers.Fixed(weights=tuple(weights[n] for n in order))
        spec = mixture.Mixture(of=SPEC, num_experts=3, router=router, routes_norms=True)
        module = spec.adapter_fn(64).routed_norm("decoder", name="x_norm")
        rng = np.random.default_rng(0)
        scales = rng.normal(size=(3, 64)).astype(np.float32)[order]
        divided = rng.normal(size=(1, 4, 64)).astype(np.float32)
        params = {"params": {"experts": {"scale": scales}}}
        outputs.append(module.apply(params, divided))
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)
