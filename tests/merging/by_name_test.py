"""Weights by layer and by name give what merges with these weights give there."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import recipes
from elm_jax.merging import averages, by_name, layers, methods, task_arithmetic
from tests.checkpoints import sample
from tests.merging import kinds

EXPERTS = [sample.make_params(seed) for seed in (1, 2, 3)]
WI = "encoder/layers/mlp/wi_0/kernel"
TOKENS = "token_embedder/embedding"
WEIGHTS = {"encoder/layers_1/": (0.0, 0.0, 1.0), "token_embedder": (0.5, 0.5, 0.0)}


def leaf(tree, name):
    return trees.flatten(tree)[name]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_layer_and_name_has_its_own_weights(place):
    order = [*itertools.permutations(range(3))][place * 2]
    weights_of = {name: tuple(w[n] for n in order) for name, w in WEIGHTS.items()}
    method = by_name.ByName(
        method=averages.Weighted(weights=tuple((1.0, 3.0, 0.0)[n] for n in order)),
        weights_of=weights_of,
    )
    merged = method.merge([EXPERTS[n] for n in order]).params
    first, second, third = (leaf(expert, WI) for expert in EXPERTS)
    np.testing.assert_array_equal(leaf(merged, WI)[1], third[1])
    expected = averages.Weighted(weights=(1.0, 3.0)).merge(EXPERTS[:2]).params
    np.testing.assert_array_equal(leaf(merged, WI)[0], leaf(expected, WI)[0])
    np.testing.assert_allclose(leaf(expected, WI), (first + 3 * second) / 4, rtol=1e-5)
    mean = averages.Uniform().merge(EXPERTS[:2]).params
    np.testing.assert_array_equal(leaf(merged, TOKENS), leaf(mean, TOKENS))


def test_a_layer_that_is_given_apart_has_the_bits_that_it_has_in_the_whole():
    base = sample.make_params()
    method = by_name.ByName(
        method=task_arithmetic.TaskArithmetic(scale=0.3), weights_of=WEIGHTS
    )
    assert method.unit == "place"
    whole = leaf(method.merge(EXPERTS, base=base).params, WI)
    name = WI.replace("/layers/", "/layers_1/")
    parts = [trees.unflatten({name: leaf(expert, WI)[1]}) for expert in EXPERTS]
    start = trees.unflatten({name: leaf(base, WI)[1]})
    part = method.merge(parts, base=start, marks=("a", "b", "c")).params
    assert leaf(part, name).tobytes() == whole[1].tobytes()


def test_what_cannot_be_is_refused():
    with pytest.raises(errors.ConfigError, match="regular expression"):
        by_name.ByName(weights_of={"(": (1.0,)})
    with pytest.raises(errors.ConfigError, match="weights for uniform"):
        by_name.ByName(method=averages.Uniform(), weights_of={"a": (1.0,)})
    with pytest.raises(errors.ConfigError, match="as a whole"):
        by_name.ByName(method=methods.of("ties", per="expert"))
    with pytest.raises(errors.ConfigError, match="for 3 experts"):
        by_name.ByName(weights_of={"a": (1.0,)}).merge(EXPERTS)
    method = by_name.ByName(weights_of={"layers_2/": (1.0, 0.0)})
    names, layers = [TOKENS, WI], {TOKENS: 7, WI: 2}
    with pytest.raises(errors.ConfigError, match="in no parameter's name"):
        method.check_names(names, layers)
    method.check_names(names, {TOKENS: 7, WI: 3})


def test_patterns_in_another_order_are_another_merge():
    weights_of = {"layers_1/": (1.0, 0.0, 0.0), "encoder/": (0.0, 0.0, 1.0)}
    forwards = by_name.ByName(weights_of=weights_of)
    backwards = by_name.ByName(weights_of=dict(reversed(weights_of.items())))
    leaves = [leaf(each.merge(EXPERTS).params, WI)[1] for each in (forwards, backwards)]
    assert leaves[0].tobytes() != leaves[1].tobytes()
    assert forwards != backwards
    assert recipes.find_changes(forwards.recipe(), backwards.recipe())
    texts = {
        json.dumps(each.recipe(), sort_keys=True) for each in (forwards, backwards)
    }
    assert len(texts) == 2


OF_LAYERS = ((0.5, 2.0, 1.0), (0.0, 1.0, 3.0))  # the first expert not in the second
LAYER_1 = "/layers_1/"
ADAPTED = ("bottleneck", "parallel", "lora", "ia3")
METHODS = [
    method
    for method in map(methods.of, methods.METHODS)
    if method.takes_weights()
    and not method.needs_statistics
    and method.unit != "expert"
    and (method.needs_base or method.knows_adapters)
]


@pytest.mark.parametrize("kind", ADAPTED)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_each_layer_of_adapters_is_that_of_a_merge_with_its_weights(method, kind):
    """Bit for bit; where an expert is left out, what makes it as wide is zeros."""
    adapted = kinds.sample(kind)
    arguments = adapted.arguments(method) | {"marks": ("a", "b", "c")}
    named = by_name.ByName(
        method=method.with_weights(OF_LAYERS[0]), weights_of={LAYER_1: OF_LAYERS[1]}
    )
    merged = named.merge(adapted.experts, **arguments)
    expected = [
        trees.flatten(
            method.with_weights(weights).merge(adapted.experts, **arguments).params
        )
        for weights in OF_LAYERS
    ]
    for name, merged_leaf in trees.flatten(merged.params).items():
        side = adapted.beside.get(name)
        for number, (unit, index) in enumerate(layers.units(name, merged_leaf)):
            layer = merged_leaf[index]
            expected_layer = expected[LAYER_1 in unit][name][index]
            if side is not None:
                width = expected_layer.shape[side.axis]
                layer, rest = np.split(layer, [width], axis=side.axis)
                assert not rest.any()
                assert number or not rest.size
            assert layer.tobytes() == expected_layer.tobytes(), unit
    whole = method.with_weights(OF_LAYERS[0]).merge(adapted.experts, **arguments)
    assert (merged.num_beside, merged.rank) == (whole.num_beside, whole.rank)


def test_a_pattern_that_takes_half_an_adapter_is_refused():
    adapted = kinds.sample("bottleneck")
    leaves = trees.flatten(adapted.experts[0])
    num_layers = {name: len(leaf) for name, leaf in leaves.items() if leaf.ndim}
    place = "encoder/layers_1/mlp_adapter/"
    for pattern in (f"{place}up", "up/bias", "kernel"):
        method = by_name.ByName(
            method=methods.of("ties"), weights_of={pattern: (1.0, 0.0, 0.0)}
        )
        with pytest.raises(errors.ConfigError, match="the same for a whole adapter"):
            method.check_names(leaves, num_layers, adapted.beside)
        with pytest.raises(errors.ConfigError, match="for a whole adapter"):
            method.merge(adapted.experts, **adapted.arguments(method))
    average = by_name.ByName(weights_of={f"{place}up": (1.0, 0.0, 0.0)})
    average.check_names(leaves, num_layers)
    average.merge(adapted.experts)
    whole = by_name.ByName(
        method=methods.of("ties"), weights_of={place: (1.0, 0.0, 0.0)}
    )
    whole.check_names(leaves, num_layers, adapted.beside)


def test_an_expert_without_weight_under_any_name_takes_no_room():
    adapted = kinds.sample("bottleneck")
    method = by_name.ByName(
        method=task_arithmetic.TaskArithmetic(weights=(1.0, 0.0, 0.0)),
        weights_of={LAYER_1: (0.0, 0.0, 2.0)},
    )
    assert method.layout(3, rank=0).num_beside == 2
    merged = method.merge(adapted.experts, **adapted.arguments(method))
    assert merged.num_beside == 2
    only = dataclasses.replace(
        method,
        method=task_arithmetic.TaskArithmetic(weights=(1.0, 0.0)),
        weights_of={LAYER_1: (0.0, 2.0)},
    )
    others = adapted.only(0, 2)
    expected = only.merge(others.experts, **others.arguments(only))
    assert trees.fingerprint(merged.params) == trees.fingerprint(expected.params)
