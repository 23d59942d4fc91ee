"""Every merge method keeps its laws, bit for bit where it says so."""

import itertools
import json
import pathlib

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from elm_jax import errors, trees
from elm_jax.merging import averages, by_name, combining, methods, noise
from tests import readmes

DTYPES = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16))
SHAPES = ((), (1,), (3,), (2, 3), (0, 4))
NEEDS_BASE = [m.name for m in methods.METHODS.values() if m.needs_base]
# Fuzzed more than the others, whose laws are tested in laws_test.py, too.
PLAIN = ["uniform", "weighted", "running_mean", "task_arithmetic"]
OTHERS = sorted(methods.METHODS.keys() - PLAIN - {"slerp"})
ITSELF = [m for m in OTHERS if "one_expert" not in methods.METHODS[m].breaks]


@st.composite
def expert_trees(draw, *, count, dtype=None):
    """Trees of equal structure with values of widely differing sizes."""
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    values = st.floats(-60000, 60000, width=16)

    def leaf(shape):
        return draw(hnp.arrays(np.float32, shape, elements=values)).astype(dtype)

    return [
        trees.unflatten({f"layer{n}/w": leaf(s) for n, s in enumerate(shapes)})
        for _ in range(count)
    ]


def assert_same_bits(merged, expected):
    assert not trees.diff(merged, expected)
    for name, leaf in trees.flatten(expected).items():
        leaf_of_merged = trees.flatten(merged)[name]
        assert leaf_of_merged.dtype == leaf.dtype
        assert leaf_of_merged.tobytes() == np.asarray(leaf).tobytes(), name


def merge(method, experts, *, base=None, **options):
    merging = methods.of(method, **options)
    statistics = [{}] * len(experts) if merging.needs_statistics else ()
    return merging.merge(experts, base=base, statistics=statistics).params


def merge_with(method, experts, base, **options):
    base = base if method in NEEDS_BASE else None
    return merge(method, experts, base=base, **options)


@pytest.mark.parametrize("method", PLAIN)
@given(parts=expert_trees(count=2))
@settings(max_examples=40, deadline=None)
def test_one_expert_merges_to_itself(method, parts):
    expert, base = parts
    assert_same_bits(merge_with(method, [expert], base), expert)


@pytest.mark.parametrize("method", ITSELF)
@given(parts=expert_trees(count=2))
@settings(max_examples=4, deadline=None)
def test_one_expert_of_any_dtype_and_shape_merges_to_itself(method, parts):
    expert, base = parts
    assert_same_bits(merge_with(method, [expert], base), expert)


@pytest.mark.parametrize("method", ["weighted", "task_arithmetic"])
@pytest.mark.parametrize("chosen", [0, 1, 2])
@given(parts=expert_trees(count=4))
@settings(max_examples=30, deadline=None)
def test_a_one_hot_weight_gives_that_expert_bit_for_bit(method, chosen, parts):
    *experts, base = parts
    weights = tuple(float(n == chosen) for n in range(3))
    merged = merge_with(method, experts, base, weights=weights)
    assert_same_bits(merged, experts[chosen])


@pytest.mark.parametrize("count", [2, 3, 7, 10])
@given(parts=expert_trees(count=1))
@settings(max_examples=20, deadline=None)
def test_equal_experts_average_to_themselves(count, parts):
    (expert,) = parts
    assert_same_bits(merge("uniform", [expert] * count), expert)
    assert_same_bits(merge("running_mean", [expert] * count), expert)
    weights = tuple(0.1 + n for n in range(count))
    weighted = merge("weighted", [expert] * count, weights=weights)
    assert_same_bits(weighted, expert)


@given(parts=expert_trees(count=2))
@settings(max_examples=40, deadline=None)
def test_equal_experts_with_weights_of_sum_one_merge_to_themselves(parts):
    expert, base = parts
    weights = (0.1,) * 10
    merged = merge("task_arithmetic", [expert] * 10, weights=weights, base=base)
    assert_same_bits(merged, expert)


@pytest.mark.parametrize("method", PLAIN)
@given(parts=expert_trees(count=4))
@settings(max_examples=30, deadline=None)
def test_the_order_of_experts_changes_no_bit(method, parts):
    check_order(method, parts)


@pytest.mark.parametrize("method", OTHERS)
@given(parts=expert_trees(count=4))
@settings(max_examples=4, deadline=None)
def test_the_order_of_experts_of_any_dtype_and_shape_changes_no_bit(method, parts):
    check_order(method, parts)


def check_order(method, parts):
    *experts, base = parts
    weights = [0.7, 0.1, 0.2]
    takes_weights = methods.METHODS[method].takes_weights()

    def merged(order):
        options = {"weights": tuple(weights[n] for n in order)} if takes_weights else {}
        try:
            return merge_with(method, [experts[n] for n in order], base, **options)
        except errors.ConfigError as error:  # beyond the range of the dtype
            return str(error)

    first, *others = [merged(order) for order in itertools.permutations(range(3))]
    for another in others:
        if isinstance(first, str):
            assert another == first
        else:
            assert_same_bits(another, first)


@given(parts=expert_trees(count=3))
@settings(max_examples=40, deadline=None)
def test_zero_scale_gives_the_base_bit_for_bit(parts):
    *experts, base = parts
    merged = merge("task_arithmetic", experts, base=base, scale=0.0)
    assert_same_bits(merged, base)


@given(parts=expert_trees(count=2, dtype=np.dtype(np.float32)))
@settings(max_examples=40, deadline=None)
def test_merging_the_base_alone_changes_nothing_at_any_scale(parts):
    base, _ = parts
    for scale in (0.3, 1.0, 2.0, -1.0):
        merged = merge("task_arithmetic", [base], base=base, scale=scale)
        for name, leaf in trees.flatten(base).items():
            np.testing.assert_array_equal(trees.flatten(merged)[name], leaf)


def tree(*values, dtype=np.float32):
    return {"w": np.array(values, dtype)}


def test_uniform_is_the_arithmetic_mean():
    merged = merge("uniform", [tree(1, 2), tree(3, 6)])
    np.testing.assert_array_equal(merged["w"], [2, 4])


def test_only_the_ratios_of_average_weights_count():
    experts = [tree(1, 2), tree(3, 6)]
    merged = merge("weighted", experts, weights=(3, 1))
    np.testing.assert_array_equal(merged["w"], [1.5, 3])
    again = merge("weighted", experts, weights=(0.75, 0.25))
    assert_same_bits(again, merged)


def test_task_arithmetic_adds_scaled_differences_and_negation_subtracts():
    base, first, second = tree(10, 10), tree(11, 10), tree(10, 14)
    add = merge("task_arithmetic", [first, second], base=base, scale=0.5)
    np.testing.assert_array_equal(add["w"], [10.5, 12])
    forget = merge("task_arithmetic", [first], base=base, weights=(-1,))
    np.testing.assert_array_equal(forget["w"], [9, 10])


def test_uniform_equals_task_arithmetic_with_scale_one_over_n():
    rng = np.random.default_rng(0)
    parts = [{"w": rng.normal(size=50).astype(np.float32)} for _ in range(4)]
    *experts, base = parts
    arithmetic = merge("task_arithmetic", experts, base=base, scale=1 / 3)
    uniform = merge("uniform", experts)
    np.testing.assert_allclose(arithmetic["w"], uniform["w"], rtol=1e-6)


def test_a_mean_in_bfloat16_rounds_once():
    # In bfloat16 itself 256 + 1 is 256, and ten ones on top stay lost.
    experts = [tree(256.0, dtype=ml_dtypes.bfloat16)]
    experts += [tree(1.0, dtype=ml_dtypes.bfloat16)] * 9
    merged = merge("uniform", experts)
    assert merged["w"].dtype == ml_dtypes.bfloat16
    assert merged["w"][0] == ml_dtypes.bfloat16(26.5)


def test_leaves_longer_than_a_chunk_are_merged_whole():
    size = combining.CHUNK_SIZE + 1
    values = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    merged = merge("uniform", [{"w": values}, {"w": values + 2}])
    np.testing.assert_array_equal(merged["w"], values + 1)


def test_jax_arrays_are_taken_and_inputs_stay_as_they_were():
    first, second = {"w": jnp.ones(3)}, {"w": np.zeros(3, np.float32)}
    merged = merge("weighted", [first, second], weights=(0, 2))
    merged["w"][:] = 5
    np.testing.assert_array_equal(second["w"], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "unifrom"}, "Did you mean: uniform"),
        ({"experts": []}, "no experts"),
        ({"experts": [tree(1), {"v": np.ones(1, np.float32)}]}, "missing: w"),
        ({"experts": [tree(1), tree(1, 2)]}, r"w \(2,\) instead of \(1,\)"),
        ({"experts": [tree(1), tree(1, dtype=np.float16)]}, "w float16 instead"),
        ({"experts": [tree(1, dtype=np.int32)]}, "dtype int32"),
        ({"experts": [tree(np.nan), tree(1)]}, "w is not finite"),
        ({"weights": (1.0, 1.0)}, "weights .* for uniform"),
        ({"scale": 0.5}, "scale 0.5 for uniform"),
        ({"base": tree(0)}, "uniform with a base"),
        ({"method": "task_arithmetic"}, "task_arithmetic without a base"),
        ({"method": "task_arithmetic", "base": tree(1, 2)}, "the base differs"),
        (
            {"method": "task_arithmetic", "base": tree(0), "scale": np.inf},
            "scale = inf",
        ),
        ({"method": "weighted", "weights": (1.0,)}, "for 2 experts"),
        ({"method": "weighted", "weights": (1.0, np.nan)}, "nan"),
        ({"method": "weighted", "weights": (1.0, -0.5)}, "subtract an expert"),
        ({"method": "weighted", "weights": (0.0, 0.0)}, "sum above 0"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(options, message):
    arguments = {"method": "uniform", "experts": [tree(1), tree(2)]} | options
    method, experts = arguments.pop("method"), arguments.pop("experts")
    with pytest.raises(errors.ConfigError, match=message):
        merge(method, experts, **arguments)


def test_a_sum_beyond_the_dtype_is_refused_by_name():
    big = tree(60000, dtype=np.float16)
    with pytest.raises(errors.ConfigError, match="w is not finite"):
        merge("task_arithmetic", [big] * 3, base=tree(0, dtype=np.float16))


def test_every_method_has_a_reference_under_its_own_name():
    for name, method in methods.METHODS.items():
        assert method.name == name
        assert "arXiv" in method.reference


BY_NAME = by_name.ByName(
    method=averages.Weighted(weights=(3.0, 1.0)),
    weights_of={"layers_1/": (1.0, 0.0), "layers_": (0.5, 0.25)},
)
REPLAYED = [methods.of(name) for name in methods.METHODS]
REPLAYED += [
    BY_NAME,
    noise.Noise(random_seed=7),
    methods.of("ties", weights=(0.1, 2.0), density=0.3, align=False, rank=2),
    methods.of("emr", expert=1),
]


@pytest.mark.parametrize("method", REPLAYED, ids=lambda method: method.name)
def test_a_recipe_names_the_method_and_gives_it_back(method):
    recipe = json.loads(json.dumps(method.recipe()))
    assert recipe["method"] == method.name
    assert methods.from_recipe(recipe) == method


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({}, "whose method is None"),
        ({"method": ["ties"]}, r"whose method is \['ties'\]"),
        ({"method": "tie"}, "Did you mean: ties"),
        ({"method": "linear"}, "a name of another tool"),
        ({"method": "uniform", "scale": 1.0}, "scale 1.0 for uniform"),
        ({"method": "ties", "experts": []}, "experts .* for ties"),
        ({"method": "ties", "density": 0}, "density = 0"),
        ({"method": "ties", "density": "0.2"}, "density = '0.2'"),
        ({"method": "ties", "weights": ["1"]}, "weights = "),
        ({"method": "ties", "weights": {"a": 1.0}}, "weights = "),
        ({"method": "ties", "align": 1}, "align = 1"),
        ({"method": "noise", "seed": 1}, "seed 1 for noise"),
        ({"method": "by_name"}, "of is missing; weights_of is missing"),
        (BY_NAME.recipe() | {"weights": [1.0]}, "weights is unknown"),
        (BY_NAME.recipe() | {"of": {}}, "whose method is None"),
        (BY_NAME.recipe() | {"weights_of": [["a"]]}, "weights_of is"),
        (BY_NAME.recipe() | {"weights_of": [["a", ["b"]]]}, "weights_of is"),
        (BY_NAME.recipe() | {"weights_of": [[1, [1.0]]]}, "weights_of is"),
        (BY_NAME.recipe() | {"weights_of": [["(", [1.0]]]}, "regular expression"),
        (BY_NAME.recipe() | {"weights_of": [["a", [1.0]]] * 2}, "'a' twice"),
    ],
)
def test_a_recipe_that_is_none_is_refused(recipe, message):
    with pytest.raises(errors.ConfigError, match=message):
        methods.from_recipe(recipe)


def test_the_readme_has_each_method_with_its_unit_and_the_laws_it_breaks():
    path = pathlib.Path(combining.__file__).with_name("README.md")
    table = {
        row[0].strip("`"): tuple(row[1:5])
        for row in readmes.table_after(path.read_text("utf-8"), "## Methods")
    }
    assert table == {
        name: (
            f"`{method.__module__.rpartition('.')[2]}.{method.__name__}`",
            method().unit,
            "yes" if method.needs_base else "",
            ", ".join(method.breaks),
        )
        for name, method in methods.METHODS.items()
    }


@pytest.mark.parametrize("name", methods.INSTEAD)
def test_a_name_of_another_tool_is_refused_with_what_to_take_instead(name):
    assert name not in methods.METHODS
    with pytest.raises(errors.ConfigError, match="a name of another tool") as caught:
        methods.of(name)
    assert methods.INSTEAD[name] in str(caught.value)


def test_a_method_without_weights_refuses_to_get_some():
    assert averages.Weighted().with_weights([2, 1]).weights == (2.0, 1.0)
    with pytest.raises(errors.ConfigError, match="weights for uniform"):
        averages.Uniform().with_weights([2, 1])
