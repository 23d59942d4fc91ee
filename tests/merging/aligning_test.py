"""Bottlenecks whose units change places are the same, and are averaged as the same."""

import tracemalloc

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.merging import averages, methods
from elm_jax.peft import effects
from tests.merging import kinds

PLACE = "encoder/layers/mlp_adapter"
AXES = {f"{PLACE}/down/kernel": -1, f"{PLACE}/down/bias": -1, f"{PLACE}/up/kernel": -2}


def with_units_in(order, expert):
    leaves = trees.flatten(expert)
    moved = {n: leaves[n].take(order, axis=axis) for n, axis in AXES.items()}
    return trees.unflatten(leaves | moved)


def same(merged, expected):
    flat = trees.flatten(expected)
    return all(
        leaf.tobytes() == flat[name].tobytes()
        for name, leaf in trees.flatten(merged).items()
    )


@pytest.fixture
def expert():
    return kinds.sample("bottleneck").experts[0]


def aligned(experts, weights=()):
    beside = kinds.sample("bottleneck").beside
    merging = methods.of("aligned", weights=weights)
    return merging.merge(experts, beside=beside).params


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_an_expert_and_itself_with_permuted_units_average_to_it_exactly(expert, order):
    permuted = with_units_in(order, expert)
    # The units get the order of the expert with the greater weight.
    assert same(aligned([expert, permuted], weights=(2.0, 1.0)), expert)
    assert same(aligned([permuted, expert], weights=(1.0, 2.0)), expert)
    equal = aligned([expert, permuted])
    assert same(equal, expert) or same(equal, permuted)


def test_without_matching_the_average_is_another_expert(expert):
    permuted = with_units_in((2, 0, 1), expert)
    plain = averages.Uniform().merge([expert, permuted]).params
    sample = kinds.sample("bottleneck")
    average_outputs, expected = (
        kinds.does(each, sample.start, sample.beside) for each in (plain, expert)
    )
    unit = f"{PLACE}".replace("layers", "layers_0")
    assert np.abs(average_outputs[unit] - expected[unit]).max() > 0.1


def test_each_layer_has_an_order_of_its_own(expert):
    leaves = trees.flatten(expert)
    moved = {
        n: np.stack([leaves[n][0], leaves[n][1].take((1, 2, 0), axis=axis)])
        for n, axis in AXES.items()
    }
    permuted = trees.unflatten(leaves | moved)
    assert same(aligned([expert, permuted], weights=(2.0, 1.0)), expert)


def test_units_that_training_has_moved_little_keep_their_order(expert):
    """Of a common start; the quickstart's experts have moved too far for it."""
    rng = np.random.default_rng(0)

    def trained():
        leaves = trees.flatten(expert)
        return trees.unflatten(
            {
                name: (leaf + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32)
                for name, leaf in leaves.items()
            }
        )

    experts = [trained() for _ in range(3)]
    assert same(aligned(experts), averages.Uniform().merge(experts).params)


@pytest.mark.parametrize("name", ["ties", "tsv_merge", "fisher", "regmean"])
def test_methods_match_units_unless_they_are_told_not_to(name, expert):
    sample = kinds.sample("bottleneck")
    permuted = with_units_in((2, 0, 1), expert)
    option = {"density": 1.0} if name == "ties" else {}

    def merged(**more):
        merging = methods.of(name, **option, **more)
        arguments = sample.arguments(merging)
        if merging.needs_statistics:
            statistics = arguments["statistics"][0]
            arguments["statistics"] = [statistics, moved(name, statistics)]
        both = merging.merge([expert, permuted], **arguments, marks=["a", "b"])
        return kinds.does(both.params, sample.start, sample.beside)

    def moved(name, statistics):
        leaves = dict(statistics)
        for leaf, axis in AXES.items():
            if name == "fisher":
                leaves[leaf] = statistics[leaf].take((2, 0, 1), axis=axis)
            elif leaf.endswith("up/kernel"):
                rows = statistics[leaf].take((2, 0, 1), axis=-1)
                leaves[leaf] = rows.take((2, 0, 1), axis=-2)
        return leaves

    expected = kinds.does(expert, sample.start, sample.beside)
    if name != "tsv_merge":  # which keeps a part of each expert's directions
        outputs = merged()
        for unit, value in expected.items():
            np.testing.assert_allclose(outputs[unit], value, atol=2e-5)
    unit = f"{PLACE}".replace("layers", "layers_0")
    assert np.abs(merged(align=False)[unit] - merged()[unit]).max() > 0.1


@pytest.mark.parametrize("name", ["fisher", "regmean"])
def test_averages_by_statistics_copy_neither_experts_nor_what_was_measured(name):
    """They take less than a fourth of what 24 experts and their statistics take."""
    rng, place = np.random.default_rng(0), "encoder/layers_0/mlp_adapter"
    shapes = {"down/kernel": (400, 40), "down/bias": (40,), "up/kernel": (40, 400)}
    inputs = {"down/kernel": (400, 400), "up/kernel": (40, 40)}

    def sample(shapes):
        return {
            f"{place}/{part}": np.square(rng.standard_normal(shape, np.float32))
            for part, shape in shapes.items()
        }

    every = [sample(shapes) for _ in range(24)]
    measured = [sample(shapes if name == "fisher" else inputs) for _ in every]
    input_bytes = sum(
        leaf.nbytes for each in every + measured for leaf in each.values()
    )
    experts, statistics = ([*map(trees.unflatten, e)] for e in (every, measured))
    beside = effects.beside(experts[0])
    tracemalloc.start()
    try:
        methods.of(name).merge(experts, beside=beside, statistics=statistics)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < input_bytes / 4
