"""Narrowed sums lose what they say they lose."""

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.merging import methods, narrowing
from tests.merging import kinds

UNIT = "encoder/layers_1/mlp_adapter"


def narrow(sample, **options):
    merging = methods.of("narrowed", **options)
    return merging.merge(sample.experts, **sample.arguments(merging))


def outputs(params, sample):
    return kinds.does(params, sample.start, sample.beside)[UNIT]


def test_the_error_that_is_told_is_that_of_the_outputs():
    sample = kinds.sample("bottleneck")
    wide = methods.of("task_arithmetic").merge(
        sample.experts, base=sample.start, beside=sample.beside
    )
    expected = outputs(wide.params, sample)
    relative_errors = []
    for count in (1, 2):
        narrowed = narrow(sample, count=count)
        assert narrowed.num_beside == count
        up = trees.flatten(narrowed.params)["encoder/layers/mlp_adapter/up/kernel"]
        assert up.shape == (2, 3 * count, 6)
        error = np.linalg.norm(outputs(narrowed.params, sample) - expected)
        relative_errors.append(narrowed.facts[f"relative_error/{UNIT}/up/kernel"])
        assert relative_errors[-1] == pytest.approx(
            error / np.linalg.norm(expected), abs=1e-5
        )
    assert 1 > relative_errors[0] > relative_errors[1] > 0


def test_as_wide_as_all_experts_it_is_the_exact_sum():
    sample = kinds.sample("bottleneck")
    narrowed = narrow(sample, count=3)
    expected = sum(outputs(expert, sample) for expert in sample.experts)
    np.testing.assert_allclose(outputs(narrowed.params, sample), expected, atol=1e-5)
    assert narrowed.num_beside == 3


def test_units_that_do_the_same_are_kept_once():
    rng = np.random.default_rng(0)
    hidden, matrix = rng.normal(size=(20, 3)), rng.normal(size=(6, 4))
    twice = np.concatenate([hidden, 2 * hidden], axis=1)
    chosen, weights, error = narrowing.narrowed(twice, matrix, 3)
    assert {place % 3 for place in chosen} == {0, 1, 2}
    np.testing.assert_allclose(twice[:, chosen] @ weights, twice @ matrix, atol=1e-9)
    assert error < 1e-9


def test_loras_are_cut_to_their_rank():
    sample = kinds.sample("lora")
    merged = narrow(sample)
    assert merged.rank == 2
    assert all(0 < share < 1 for share in merged.facts.values())


def test_activations_that_do_not_fit_are_refused_by_name():
    sample = kinds.sample("bottleneck")
    merging, arguments = (
        methods.of("narrowed"),
        sample.arguments(methods.of("narrowed")),
    )
    arguments["statistics"] = [{}] * 3
    with pytest.raises(errors.ConfigError, match="up/kernel: none that are finite"):
        merging.merge(sample.experts, **arguments)
    (name,) = sample.statistics["narrowed"][0]
    arguments["statistics"] = [{name: np.zeros((2, 7, 2))}] * 3
    with pytest.raises(errors.ConfigError, match="6 units of 9"):
        merging.merge(sample.experts, **arguments)
