"""Comparisons of experts are what can be computed by hand."""

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.merging import comparing
from tests.merging import kinds

BASE = np.arange(6.0).reshape(2, 3).astype(np.float32)
CHANGE = np.array([[1.0, -2.0, 0.0], [0.0, 0.5, 0.0]], np.float32)


def compared(*changes):
    experts = [{"wi": BASE + change} for change in changes]
    return comparing.compare(experts, {"wi": BASE}, {})


@pytest.mark.parametrize(
    ("second", "cosine", "conflict", "overlap", "pull"),
    [
        (CHANGE, 1.0, 0.0, 1.0, 0.0),
        (-CHANGE, -1.0, 1.0, 1.0, 1.0),  # the mean is the base: all is lost
        (2 * CHANGE, 1.0, 0.0, 1.0, (1 + 4) / 4 / 17),  # (D D' - 2 D D')^2 and so on
    ],
    ids=["same", "opposite", "twice"],
)
def test_two_experts_by_hand(second, cosine, conflict, overlap, pull):
    comparison = compared(CHANGE, second)
    assert comparison.cosine[0, 1] == pytest.approx(cosine)
    assert comparison.mean("conflict")[0, 1] == pytest.approx(conflict)
    assert comparison.mean("overlap")[0, 1] == pytest.approx(overlap)
    assert comparison.forecast[0, 1] == pytest.approx(pull, abs=1e-12)
    sizes = [np.linalg.norm(CHANGE), np.linalg.norm(second)]
    np.testing.assert_allclose(comparison.norms, sizes, rtol=1e-6)


def test_experts_that_read_other_inputs_lose_a_quarter_and_share_no_signs():
    """Half of the outputs on their own inputs is left: a quarter of the square."""
    first, second = np.zeros((2, 4, 3))
    first[0], second[2] = [1, 2, 3], [3, 0, -1]
    experts = [{"wi": change} for change in (first, second)]
    comparison = comparing.compare(experts, {"wi": np.zeros((4, 3))}, {})
    assert comparison.forecast[0, 1] == pytest.approx(0.25)
    assert comparison.mean("conflict")[0, 1] == 0.0
    assert comparison.cosine[0, 1] == 0.0


@pytest.mark.parametrize("kind", kinds.SHAPES)
def test_cosines_are_those_of_what_experts_do(kind):
    sample = kinds.sample(kind)
    comparison = comparing.compare(sample.experts, sample.start, sample.beside)
    assert comparison.cosine.shape == (3, 3)
    np.testing.assert_allclose(np.diag(comparison.cosine), 1.0)
    np.testing.assert_allclose(comparison.cosine, comparison.cosine.T)
    assert np.isnan(comparison.in_place).all() == (
        kind not in ("bottleneck", "parallel")
    )
    for layer in comparison.layers:
        if "query_adapter" in layer.name:
            layer_of = int(layer.name.split("layers_")[1][0])
            a, b = (
                np.stack([trees.flatten(e)[name][layer_of] for e in sample.experts])
                for name in trees.flatten(sample.experts[0])
                if "query_adapter" in name
            )
            flat = (a.astype(float) @ b).reshape(3, -1)
            np.testing.assert_allclose(layer.products, flat @ flat.T, rtol=1e-6)
            assert np.isnan(layer.conflict).all()


def test_an_expert_with_units_in_other_places_is_the_same_expert():
    sample = kinds.sample("bottleneck", count=1)
    order = [2, 0, 1]
    moved = {
        name: leaf.take(order, axis=sample.beside[name].axis)
        if name in sample.beside
        else leaf
        for name, leaf in trees.flatten(sample.experts[0]).items()
    }
    experts = [sample.experts[0], trees.unflatten(moved)]
    comparison = comparing.compare(experts, sample.start, sample.beside)
    assert comparison.cosine[0, 1] == pytest.approx(1.0)
    assert comparison.in_place[0, 1] == 0.0


def test_the_pull_of_wide_matrices_is_found_without_matrices_of_their_width():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(3, 2, 40_000))
    experts = [{"wi": change} for change in wide]
    comparison = comparing.compare(experts, {"wi": np.zeros(wide.shape[1:])}, {})
    # A rotation of the outputs changes no size, and makes the matrices square.
    _, _, axes = np.linalg.svd(wide.reshape(6, -1), full_matrices=False)
    small = wide @ axes.T
    for i, j in ((0, 1), (1, 2)):
        apart, ones = small[j] - small[i], (small[i], small[j])
        lost = sum(np.square(apart.T @ change / 2).sum() for change in ones)
        total = sum(np.square(change.T @ change).sum() for change in ones)
        assert comparison.layers[0].pull[i, j] == pytest.approx(lost / total, rel=1e-6)


def test_experts_that_change_nothing_are_refused():
    with pytest.raises(errors.ConfigError, match="2 experts that change nothing"):
        compared(0 * CHANGE, 0 * CHANGE)
