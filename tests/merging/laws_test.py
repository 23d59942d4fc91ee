"""Every method keeps every law for every kind, but for what it says that it breaks."""

import dataclasses
import functools
import itertools
import json
from typing import Any

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.merging import (
    deltas,
    elementwise,
    layers,
    method,
    methods,
    threads,
    views,
)
from elm_jax.peft import effects
from tests.merging import kinds

# Slerp is of two experts.
COUNTS = {"slerp": 2}


def has(name, option):
    return option in [field.name for field in dataclasses.fields(methods.METHODS[name])]


def merge(name, sample, marks=(), **options):
    merging = methods.of(name, **options)
    arguments = sample.arguments(merging)
    return merging.merge(sample.experts, **arguments, marks=marks).params


def sample_for(name, kind):
    return kinds.sample(kind, COUNTS.get(name, 3))


def same_bits(merged, expected):
    merged, expected = trees.flatten(merged), trees.flatten(expected)
    return merged.keys() == expected.keys() and all(
        leaf.tobytes() == np.asarray(expected[name]).tobytes()
        and leaf.dtype == expected[name].dtype
        for name, leaf in merged.items()
    )


def near(effects, expected, factor=1.0):
    for name, value in expected.items():
        limit = 2e-5 * max(1.0, np.abs(value).max(initial=0.0))
        if np.abs(effects[name] - factor * value).max(initial=0.0) > limit:
            return False
    return effects.keys() == expected.keys()


def does(params, sample):
    return kinds.does(params, sample.start, sample.beside)


def order(name, sample, **fixed):
    count = len(sample.experts)
    weights = np.arange(1, count + 1) / 7
    merged = []
    for numbers in itertools.permutations(range(count)):
        options = (
            {"weights": tuple(weights[[*numbers]])} if has(name, "weights") else {}
        )
        merged.append(merge(name, sample.only(*numbers), **options, **fixed))
    return all(same_bits(each, merged[0]) for each in merged)


def one_expert(name, sample):
    alone = sample.only(1)
    return same_bits(merge(name, alone), alone.experts[0])


def one_hot(name, sample):
    if not has(name, "weights"):
        return True
    count = len(sample.experts)
    for number in range(count):
        weights = tuple(float(n == number) for n in range(count))
        if not same_bits(merge(name, sample, weights=weights), sample.experts[number]):
            return False
    return True


def equal_experts(name, sample):
    count = len(sample.experts)
    equal = sample.only(*[0] * count)
    options = {"weights": (1 / count,) * count} if has(name, "weights") else {}
    merged = merge(name, equal, **options)
    return near(does(merged, sample), does(sample.experts[0], sample))


def zero_scale(name, sample, **fixed):
    if not has(name, "scale"):
        return True
    merged = trees.flatten(merge(name, sample, scale=0.0, **fixed))
    start = trees.flatten(sample.start)
    base_leaves = {name: leaf for name, leaf in merged.items() if name in start}
    nothing = does(trees.unflatten(merged), sample)
    return same_bits(base_leaves, start) and not any(
        each.any() for each in nothing.values()
    )


def scaling(name, sample, **fixed):
    if not has(name, "scale"):
        return True
    single, double = (
        does(merge(name, sample, scale=s, **fixed), sample) for s in (0.7, 1.4)
    )
    return near(double, single, factor=2.0)


def sign(name, sample, **fixed):
    marks = ["a", "b", "c"][: len(sample.experts)]
    forward = does(merge(name, sample, marks, **fixed), sample)
    back = does(merge(name, sample.opposite(), marks, **fixed), sample)
    return near(back, forward, factor=-1.0)


def replay(name, sample, **fixed):
    weights = {"weights": (0.5,) * len(sample.experts)} if has(name, "weights") else {}
    merging = methods.of(name, **weights, **fixed)
    again = methods.from_recipe(json.loads(json.dumps(merging.recipe())))
    merged = again.merge(sample.experts, **sample.arguments(again)).params
    return again == merging and same_bits(
        merged, merge(name, sample, **weights, **fixed)
    )


CHECKS = {
    check.__name__: check
    for check in (
        *(order, one_expert, one_hot, equal_experts),
        *(zero_scale, scaling, sign, replay),
    )
}


def test_every_law_has_a_check():
    assert CHECKS.keys() == method.LAWS.keys()


@pytest.mark.parametrize("kind", kinds.SHAPES)
@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_keeps_every_law_for_every_kind_or_says_why_not(name, kind):
    sample, breaks = sample_for(name, kind), methods.METHODS[name].breaks
    broken = [
        f"{law}: {method.LAWS[law]}"
        for law, check in CHECKS.items()
        if law not in breaks and not check(name, sample)
    ]
    print(*(f"{name} breaks {law}: {why}" for law, why in breaks.items()), sep="\n")
    assert not broken


WITH_WEIGHTS = [name for name in methods.METHODS if has(name, "weights")]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in WITH_WEIGHTS),
        ("ties", {"combine": "normalised"}),
        ("della", {"combine": "sum"}),
    ],
    ids=str,
)
def test_more_of_all_weights_changes_nothing_of_just_the_methods_that_say_so(
    name, options
):
    is_equal = []
    for kind in kinds.SHAPES:
        for sample in (sample_for(name, kind), sample_for(name, kind).only(1)):
            weights = np.arange(1, len(sample.experts) + 1) / 7
            merged, more = (
                does(merge(name, sample, weights=tuple(w), **options), sample)
                for w in (weights, 5 * weights)
            )
            is_equal.append(near(more, merged))
    assert all(is_equal) == methods.of(name, **options).only_ratios


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_breaks_the_laws_that_it_says_it_breaks(name):
    for law in methods.METHODS[name].breaks:
        holds = [CHECKS[law](name, sample_for(name, kind)) for kind in kinds.SHAPES]
        assert not all(holds), f"{name} keeps {law}: {method.LAWS[law]}"


# Those of the laws that do not hang on what is kept, or on the rank.
OF_VARIANTS = ("order", "zero_scale", "scaling", "sign", "replay")
VARIANTS = [
    *(("ties", {"per": "expert"}), ("magnitude", {"per": "expert"})),
    *(("ties", {"space": space}) for space in ("parameters", "knots")),
    *(("ties", {"vote": "plain"}), ("ties", {"combine": "normalised"})),
    *(("ties", {"sign": "count"}), ("elementwise", {"sign": "sum", "combine": "mean"})),
    *(("dare", {"rescale": "l1"}), ("dare", {"space": "parameters"})),
    *(("della", {"combine": "sum"}), ("magmax", {"space": "parameters"})),
    *(("sce", {"density": 0.5}), ("consensus", {"count": 1})),
    *(("knots", {"density": 1.0}), ("low_rank_sum", {"rank": 1})),
    *(("iso_cts", {"common_share": share}) for share in (0.0, 0.4, 1.0)),
    *(("wudi", {"start": "zero"}), ("wudi", {"cut": False}), ("wudi", {"time": 3.0})),
    *(("ace", {"epsilon": 1.0}), ("regmean", {"rank": 1})),
    ("model_stock", {"align": False}),
]
# Of as many experts on either side none wins, and a tie is positive.
BROKEN_BY = {"sign": [("ties", {"sign": "count"})]}


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_options_keep_the_laws_that_do_not_hang_on_them(name, options):
    for kind in kinds.SHAPES:
        sample, breaks = sample_for(name, kind), methods.METHODS[name].breaks
        broken = [
            law
            for law in OF_VARIANTS
            if law not in breaks and not CHECKS[law](name, sample, **options)
        ]
        exceptions = [law for law, of in BROKEN_BY.items() if (name, options) in of]
        assert not {*broken} - {*exceptions}, (kind, broken)


def test_ties_between_signs_that_are_counted_are_positive_on_both_sides():
    sample = kinds.sample("all").only(0, 1)
    assert not sign("ties", sample, sign="count", density=1.0)


def parts(name, sample):
    """The names of leaves of each part that the method merges by itself."""
    unit = methods.of(name).unit
    beside = sample.beside
    groups = {}
    for leaf in trees.flatten(sample.experts[0]):
        in_place = unit == "place" and leaf in beside
        groups.setdefault(beside[leaf].place if in_place else leaf, []).append(leaf)
    return groups


@pytest.mark.parametrize("kind", kinds.SHAPES)
@pytest.mark.parametrize("name", methods.METHODS)
def test_layers_that_are_merged_apart_are_those_of_the_whole(name, kind):
    """As whoever streams experts from disk merges them."""
    sample = sample_for(name, kind)
    merging = methods.of(name)
    marks = [trees.fingerprint(expert) for expert in sample.experts]
    arguments = sample.arguments(merging)
    whole = trees.flatten(merging.merge(sample.experts, **arguments).params)
    if merging.unit == "expert":
        pytest.skip("it needs whole experts")
    flat = [trees.flatten(expert) for expert in sample.experts]
    for names in parts(name, sample).values():
        for number, (_, index) in enumerate(layers.units(names[0], flat[0][names[0]])):
            cut = functools.partial(layer_of, names, number, index)
            layer_arguments = dict(arguments)
            if "base" in layer_arguments:
                layer_arguments["base"] = cut(trees.flatten(sample.start))
            if "statistics" in layer_arguments:
                layer_arguments["statistics"] = [
                    cut(each) for each in layer_arguments["statistics"]
                ]
            layer_arguments["beside"] = effects.beside(cut(flat[0]))
            part = merging.merge(
                [cut(each) for each in flat], **layer_arguments, marks=marks
            )
            assert same_bits(part.params, cut(whole))


def layer_of(names, number, index, leaves):
    """One layer of some leaves, under names of its own."""
    return trees.unflatten(
        {
            name.replace("/layers/", f"/layers_{number}/"): np.asarray(
                leaves[name][index]
            )
            for name in names
            if name in leaves
        }
    )


@pytest.mark.parametrize("name", ["dare", "dare_ties", "della"])
def test_chance_is_by_its_seed(name):
    sample = kinds.sample("all")
    first, again, of_another_seed = (
        merge(name, sample, random_seed=seed) for seed in (1, 1, 2)
    )
    assert same_bits(first, again)
    assert not same_bits(first, of_another_seed)


@pytest.mark.parametrize("name", methods.METHODS)
def test_the_dtype_of_experts_stays(name):
    dtype: Any = np.dtype(np.float16)
    sample = kinds.sample("lora", COUNTS.get(name, 3), dtype)
    merged = trees.flatten(merge(name, sample))
    assert {leaf.dtype for leaf in merged.values()} == {dtype}


@pytest.mark.parametrize("name", ["ties", "dare", "della", "breadcrumbs"])
def test_a_few_numbers_at_a_time_merge_to_what_all_at_once_do(monkeypatch, name):
    sample = kinds.sample("all")
    whole = merge(name, sample)
    monkeypatch.setattr(elementwise, "_AT_ONCE", 7)  # two numbers of three experts
    assert same_bits(merge(name, sample), whole)


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("kind", ["all", "bottleneck", "lora"])
def test_two_threads_merge_to_the_bits_of_one(monkeypatch, kind, name):
    sample = kinds.sample(kind, COUNTS.get(name, 3))
    monkeypatch.setattr(views, "_MANY", 1)  # the way of many numbers, for knots
    whole = merge(name, sample)
    monkeypatch.setattr(views, "_WIDE", 1)  # wide matrices, in another order
    monkeypatch.setattr(threads, "_MANY", 0)
    monkeypatch.setattr(threads, "_FEW", 0)
    assert same_bits(merge(name, sample), whole)


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("kind", [k for k in kinds.SHAPES if k not in kinds.RANKS])
def test_a_method_tells_how_adapters_will_lie(kind, name):
    """With weights, without, and with the options that change ranks and widths."""
    sample = sample_for(name, kind)
    count = len(sample.experts)
    rank = deltas.rank_of(trees.flatten(sample.experts[0]), sample.beside)
    every = [{}, {"weights": (1.0, *[0.0] * (count - 1))}, {"scale": 0.0}, {"rank": 1}]
    for options in every:
        if all(has(name, option) for option in options):
            merging = methods.of(name, **options)
            merged = merging.merge(sample.experts, **sample.arguments(merging))
            layout = merging.layout(count, rank)
            if sample.beside and (merging.needs_base or merging.knows_adapters):
                assert layout == (merged.num_beside, merged.rank)
