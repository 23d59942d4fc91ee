"""What hidden units look for is averaged, whatever factors their effects have."""

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.merging import methods
from tests.merging import kinds

PLACE = "encoder/layers/mlp_adapter"
INNER = (f"{PLACE}/down/kernel", f"{PLACE}/down/bias")
SUMS = ("elementwise", "low_rank_sum", "magmax", "emr", "consensus", "magnitude")


def alike():
    """A sample of three experts whose hidden units look for the same."""
    sample = kinds.sample("bottleneck")
    leaves = [trees.flatten(expert) for expert in sample.experts]
    for each in leaves[1:]:
        each.update({name: leaves[0][name] for name in INNER})
    return leaves, kinds.Sample(list(map(trees.unflatten, leaves)), sample.start, {})


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0.5), (0.1, 0.2, -0.3), (1, 1, -2)])
@pytest.mark.parametrize("name", [*SUMS, "ties", "dare_ties", "sce", "model_stock"])
def test_units_that_look_for_the_same_still_do(name, weights):
    if min(weights) < 0 and name in ("sce", "model_stock"):
        pytest.skip("takes no negative weights")
    leaves, sample = alike()
    whole = {"density": 1.0} if name in ("ties", "dare_ties", "magnitude") else {}
    method = methods.of(name, weights=weights, align=False, **whole)
    merged = method.merge(sample.experts, **sample.arguments(method)).params
    for inner in INNER:
        leaf = trees.flatten(merged)[inner]
        np.testing.assert_allclose(leaf, leaves[0][inner], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weights", [(0.1, 0.2, -0.3), (1.0, 1.0, -2.0)])
def test_weights_whose_sum_is_0_sum_effects_exactly(weights):
    leaves, sample = alike()
    method = methods.of("elementwise", weights=weights, align=False)
    merged = method.merge(sample.experts, **sample.arguments(method)).params
    name = f"{PLACE}/up/kernel"
    exact = sum(w * each[name] for w, each in zip(weights, leaves, strict=True))
    np.testing.assert_allclose(trees.flatten(merged)[name], exact, atol=1e-6)


def test_units_that_differ_are_averaged_by_the_sizes_of_weights():
    sample = kinds.sample("bottleneck")
    weights = (0.1, 0.2, -0.3)
    method = methods.of("elementwise", weights=weights, align=False)
    merged = method.merge(sample.experts, **sample.arguments(method)).params
    every = [trees.flatten(expert)[INNER[0]] for expert in sample.experts]
    expected = np.average(every, axis=0, weights=np.abs(weights))
    np.testing.assert_allclose(trees.flatten(merged)[INNER[0]], expected, atol=1e-6)


def test_an_expert_of_negative_weight_is_subtracted_when_sums_are_normalised():
    experts = [{"w": np.array(each, np.float32)} for each in ([1, 5], [3, 1])]
    method = methods.of(
        "elementwise", weights=(1.0, -1.0), sign="sum", combine="normalised"
    )
    leaf = method.merge(experts, base={"w": np.zeros(2, np.float32)}).params["w"]
    np.testing.assert_array_equal(leaf, [-3.0, 5.0])


def test_an_expert_that_changes_nothing_has_no_directions_in_tsv_merge():
    rng = np.random.default_rng(0)
    experts = [
        {"w": (rng.normal(size=(6, 3)) @ rng.normal(size=(3, 6))).astype(np.float32)}
        for _ in range(2)
    ]
    zeros = {"w": np.zeros((6, 6), np.float32)}
    method = methods.of("tsv_merge")  # 3 // 2 and 3 // 3 directions are one each
    two = method.merge(experts, base=zeros).params["w"]
    three = method.merge([*experts, zeros], base=zeros).params["w"]
    np.testing.assert_allclose(three, two, atol=1e-5)
    nothing = method.merge([zeros, zeros], base=zeros).params["w"]
    np.testing.assert_array_equal(nothing, zeros["w"])


def test_what_was_measured_of_a_bias_moves_with_its_units():
    sample = kinds.sample("bottleneck", count=2)
    leaves = trees.flatten(sample.experts[0])
    order = [2, 0, 1]
    moved = dict(leaves)
    for name, side in sample.beside.items():
        moved[name] = leaves[name].take(order, axis=side.axis)
    moved[INNER[1]] = moved[INNER[1]] + np.float32(0.5)
    measured = np.array([[1.0, 2.0, 3.0]] * kinds.LAYERS)
    statistics = [{INNER[1]: measured}, {INNER[1]: measured.take(order, axis=-1)}]
    method = methods.of("regmean", weights=(1.0, 1.0))
    merged = method.merge(
        [trees.unflatten(leaves), trees.unflatten(moved)],
        beside=sample.beside,
        statistics=statistics,
    ).params
    values = np.sort(trees.flatten(merged)[INNER[1]], axis=-1)
    # Alike in both experts, so that the mean is in the middle.
    expected = np.sort(leaves[INNER[1]] + 0.25, axis=-1)
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("factor", [0.25, 2.0, -0.5])
@pytest.mark.parametrize("option", ["weights", "scale"])
def test_a_factor_on_matrices_apart_is_one_on_their_product(option, factor):
    sample = kinds.sample("lora", count=1)
    value = (factor,) if option == "weights" else factor
    method = methods.of("elementwise", space="parameters", **{option: value})
    merged = method.merge(sample.experts, **sample.arguments(method)).params
    changes = kinds.does(merged, sample.start, sample.beside)
    expected = kinds.does(sample.experts[0], sample.start, sample.beside)
    for name, change in expected.items():
        np.testing.assert_allclose(changes[name], factor * change, rtol=1e-5, atol=1e-5)


def test_a_rank_for_matrices_apart_is_refused():
    with pytest.raises(errors.ConfigError, match="rank"):
        methods.of("elementwise", space="parameters", rank=1)
    with pytest.raises(errors.ConfigError, match="rank"):
        methods.of("magmax", space="parameters", rank=1)
