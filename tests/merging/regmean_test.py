"""Averages that are weighed by Gram matrices, against their closed form."""

import numpy as np
import pytest

from elm_jax.merging import closed_form, methods
from elm_jax.types import Side

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("is_singular", [False, True])
def test_least_squares_are_those_of_the_pseudo_inverse(is_singular):
    """By Cholesky where all eigenvalues count for sure, by eigenvectors elsewhere."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(9, 6 if is_singular else 20))
    gram, target = half @ half.T, half @ rng.normal(size=(half.shape[1], 4))
    solution = closed_form._least_squares(gram, target)
    expected = np.linalg.pinv(gram, hermitian=True) @ target
    np.testing.assert_allclose(solution, expected, rtol=1e-9, atol=1e-9)


def test_regmean_is_the_closed_form_of_its_paper():
    changes = RNG.normal(size=(3, 7, 5))
    rows = [RNG.normal(size=(30, 7)) for _ in changes]
    grams = [each.T @ each / 30 for each in rows]
    merging = methods.of("regmean", shrink=1.0, ridge=1e-12)
    merged = merging.merge(
        [{"w": each} for each in changes], statistics=[{"w": gram} for gram in grams]
    )
    inverse = np.linalg.inv(sum(grams))
    expected = inverse @ sum(g @ w for g, w in zip(grams, changes, strict=True))
    np.testing.assert_allclose(merged.params["w"], expected, atol=1e-8)
    outputs = sum(
        np.square(x @ expected - x @ w).sum()
        for x, w in zip(rows, changes, strict=True)
    )
    for _ in range(10):
        nearby = expected + 1e-3 * RNG.normal(size=expected.shape)
        assert outputs < sum(
            np.square(x @ nearby - x @ w).sum()
            for x, w in zip(rows, changes, strict=True)
        )


def test_regmean_of_loras_is_that_of_their_products():
    lefts, rights = RNG.normal(size=(3, 9, 2)), RNG.normal(size=(3, 2, 8))
    experts = [
        {"q_adapter": {"a": left, "b": right}}
        for left, right in zip(lefts, rights, strict=True)
    ]
    beside = {
        "q_adapter/a": Side(-1, False, "q_adapter", True),
        "q_adapter/b": Side(-2, True, "q_adapter", True),
    }
    grams = []
    for _ in experts:
        rows = RNG.normal(size=(40, 9))
        grams.append(rows.T @ rows / 40)
    merged = methods.of("regmean").merge(
        experts, beside=beside, statistics=[{"q_adapter/a": gram} for gram in grams]
    )
    expected = methods.of("regmean").merge(
        [{"w": product} for product in lefts @ rights],
        statistics=[{"w": gram} for gram in grams],
    )
    product = merged.params["q_adapter"]["a"] @ merged.params["q_adapter"]["b"]
    np.testing.assert_allclose(product, expected.params["w"], atol=1e-9)


def test_directions_without_inputs_get_the_mean_of_the_experts():
    changes = RNG.normal(size=(2, 3, 4))
    gram = np.diag([1.0, 1.0, 0.0])
    merged = methods.of("regmean").merge(
        [{"w": each} for each in changes], statistics=[{"w": gram}] * 2
    )
    np.testing.assert_allclose(merged.params["w"], changes.mean(axis=0), atol=1e-9)
