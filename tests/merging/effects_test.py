"""Sums of effects refuse what has none; laws that need adapters are in tests/peft."""

import ml_dtypes
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.merging import task_arithmetic

BESIDE = {"a/up": (-2, True), "a/down": (-1, False)}
BASE = {"norm": np.ones(2, np.float32)}


def expert(seed, dtype=np.float32, width=3):
    rng = np.random.default_rng(seed)
    shapes = {"a/down": (4, width), "a/up": (width, 4), "norm": (2,)}
    return trees.unflatten(
        {n: rng.normal(size=shape).astype(dtype) for n, shape in shapes.items()}
    )


def merge(experts, base=BASE, **options):
    method = task_arithmetic.TaskArithmetic(**options)
    merged = method.merge(experts, base=base, beside=BESIDE)
    return merged.params, merged.num_beside


def test_inner_widths_add_up_and_factors_go_to_one_side():
    first, second = expert(1), expert(2)
    merged, count = merge([first, second], weights=(2.0, -1.0), scale=0.5)
    assert count == 2
    leaves = trees.flatten(merged)
    assert (leaves["a/down"].shape, leaves["a/up"].shape) == ((4, 6), (6, 4))
    product = leaves["a/down"] @ leaves["a/up"]
    products = [tree["a"]["down"] @ tree["a"]["up"] for tree in (first, second)]
    np.testing.assert_allclose(product, products[0] - products[1] / 2, rtol=1e-5)
    norm = 1 + (first["norm"] - 1) - (second["norm"] - 1) / 2
    np.testing.assert_allclose(leaves["norm"], norm, rtol=1e-6)


def test_equal_experts_are_counted_each():
    merged, count = merge([expert(1)] * 3)
    assert count == 3
    assert merged["a"]["down"].shape == (4, 9)


def test_dtypes_stay():
    dtype = np.dtype(ml_dtypes.bfloat16)
    base = {"norm": BASE["norm"].astype(dtype)}
    merged, _ = merge([expert(1, dtype), expert(2, dtype)], base, scale=0.3)
    assert {leaf.dtype for leaf in trees.flatten(merged).values()} == {dtype}


@pytest.mark.parametrize(
    ("experts", "options", "message"),
    [
        ([], {}, "no experts"),
        ([expert(1), expert(2, width=4)], {}, "a/down"),
        ([expert(1), expert(2)], {"weights": (1.0,)}, "one finite weight per expert"),
        ([expert(1)], {"scale": float("inf")}, "float, finite"),
        ([expert(1)], {"scale": 3e38, "weights": (3e38,)}, "not finite"),
        ([expert(1)], {"base": {}}, "the base differs"),
    ],
)
def test_what_has_no_sum_is_refused(experts, options, message):
    with pytest.raises(errors.ConfigError, match=message):
        merge(experts, **options)


def test_a_nan_is_named_where_it_is():
    bad = expert(1)
    bad["a"]["up"][0, 0] = np.nan
    with pytest.raises(errors.ConfigError, match="a/up is not finite"):
        merge([bad, expert(2)])
