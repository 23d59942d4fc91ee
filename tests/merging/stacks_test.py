"""What is made of several experts' matrices is the same from arrays and from products.

Tolerances are rounding: 1e-12, and 1e-9 where singular values are roots of squares.
"""

import tracemalloc

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.merging import (
    deltas,
    elementwise,
    geometry,
    methods,
    products,
    selecting,
    spectral,
    stacks,
)
from elm_jax.peft import effects

RNG = np.random.default_rng(11)
WEIGHTS = np.array([0.5, -1.0, 2.0, 0.25, 1.0])
PLACE = "encoder/layers_0/query_adapter"


def products_of(count=5, rows=9, rank=2, columns=7):
    firsts = RNG.normal(size=(count, rows, rank))
    return products.Products(firsts, RNG.normal(size=(count, rank, columns)))


def both(**sizes):
    factored = products_of(**sizes)
    return factored, stacks.Arrays(factored.firsts @ factored.seconds)


def close(actual, expected, tolerance=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("at_once", [1, 200, 1 << 20])
@pytest.mark.parametrize("shape", [(5, 9, 4), (7, 4, 9), (4, 6, 6), (3, 8, 1)])
@pytest.mark.parametrize("rank", [0, 2])
def test_equations_are_sums_over_experts_however_many_at_a_time(
    monkeypatch, shape, at_once, rank
):
    """To 1e-12: rounding in sums of up to 81 products. Rank 0 stands for arrays."""
    monkeypatch.setattr(stacks, "_AT_ONCE", at_once)
    changes, factors = RNG.normal(size=shape), np.linspace(0.0, 2.0, shape[0])
    stack: stacks.Matrices = stacks.Arrays(changes)
    if rank:
        stack = products_of(shape[0], shape[1], rank, shape[2])
        changes = stack.some(...)
    gram, cubes = stack.equations(factors)
    each = [f * d @ d.T for f, d in zip(factors, changes, strict=True)]
    close(gram, np.sum(each, axis=0))
    close(cubes, sum(g @ d for g, d in zip(each, changes, strict=True)))
    np.testing.assert_array_equal(gram, gram.T)


@pytest.mark.parametrize("sizes", [{}, {"rank": 8}, {"rows": 3, "rank": 5}])
def test_products_are_what_their_arrays_are(sizes):
    stack, arrays = both(**sizes)
    count, rows, columns = stack.shape
    assert stack.shape == arrays.shape
    assert stack.most_rank == min(rows, columns, stack.firsts.shape[2])
    close(stack.some(...), arrays.changes)
    close(stack.some(slice(1, 3)), arrays.some(slice(1, 3)))
    close(stack.change_of(3), arrays.change_of(3))
    close(stack.total(WEIGHTS), np.tensordot(WEIGHTS, arrays.changes, axes=1))
    close(arrays.total(WEIGHTS), np.tensordot(WEIGHTS, arrays.changes, axes=1))
    close(stack.scaled(WEIGHTS).some(...), arrays.scaled(WEIGHTS).changes)
    close(stack.squares(), np.square(arrays.changes).sum(axis=(1, 2)))
    close(arrays.squares(), np.square(arrays.changes).sum(axis=(1, 2)))
    vector, vectors = RNG.normal(size=columns), RNG.normal(size=(count, rows))
    close(stack.times(vector), arrays.times(vector))
    close(stack.times_rows(vectors), arrays.times_rows(vectors))
    frame, _ = np.linalg.qr(RNG.normal(size=(rows, 2)))
    close(stack.without(frame).some(...), arrays.without(frame).changes)


@pytest.mark.parametrize("sizes", [{}, {"rank": 8}, {"rows": 3, "rank": 5}])
def test_singular_vectors_of_products_are_those_of_their_arrays(sizes):
    stack, arrays = both(**sizes)
    most = stack.most_rank
    left, values, right = stack.svd(most)
    expected = np.linalg.svd(arrays.changes, compute_uv=False)
    close(values[:, :most], expected[:, :most], 1e-9)
    close((left * values[:, None, :most]) @ right, arrays.changes, 1e-9)
    close(left.swapaxes(1, 2) @ left, np.stack([np.eye(most)] * 5))
    first, _, last = stack.svd(1)
    close(first, left[..., :1])
    close(last, right[:, :1])
    for side, whole in zip(stack.sides(), arrays.sides(), strict=True):
        sizes_of = [np.linalg.svd(x, compute_uv=False) for x in (side, whole)]
        count = min(map(len, sizes_of))
        close(sizes_of[0][:count], sizes_of[1][:count], 1e-9)


def test_products_come_in_rows_that_are_as_large_as_they_may_be(monkeypatch):
    """A row of five experts has 5 x 7 numbers of 8 bytes: 280, of which two fit."""
    stack, arrays = both()
    assert [*stack.parts()] == [...]
    monkeypatch.setattr(products, "_PART_BYTES", 2 * 280)
    parts = [*stack.parts()]
    assert parts == [slice(n, n + 2) for n in range(0, 10, 2)]
    joined = np.concatenate([stack.some(rows) for rows in parts], axis=1)
    close(joined, arrays.changes)
    monkeypatch.setattr(products, "_PART_BYTES", 1)  # one row is the least
    assert len([*stack.parts()]) == 9


def loras(count=6, rank=2, width=8):
    """Six of rank 2 fill more than the eight axes of their matrices."""
    rng = np.random.default_rng(3)
    shapes = {"lora_a": (width, rank), "lora_b": (rank, width)}
    return [
        trees.unflatten({f"{PLACE}/{n}": rng.normal(size=s) for n, s in shapes.items()})
        for _ in range(count)
    ]


def merged(method, experts):
    beside = effects.beside(experts[0])
    return method.merge(experts, base={}, beside=beside).params


def product(params):
    by_name = trees.flatten(params)
    return by_name[f"{PLACE}/lora_a"] @ by_name[f"{PLACE}/lora_b"]


def in_cores():
    every = [each() for each in methods.METHODS.values()]
    return [each for each in every if isinstance(each, deltas.DeltaMethod)]


IN_CORES = [each for each in in_cores() if not each.holds_cores]
OF_EXPERTS = [
    elementwise.Ties(per="expert"),
    elementwise.Elementwise(keep="magnitude", density=0.3, per="expert"),
    selecting.Emr(expert=2),
    selecting.Emr(expert=0, weights=(0.5, *(1.0,) * 5)),
]
OPTIONS = [
    elementwise.Ties(vote="plain", sign="count"),
    elementwise.Dare(density=0.3, rescale="l1"),
    elementwise.Elementwise(combine="normalised", weights=(1, 2, 3, 4, 5, -6)),
    selecting.Sce(density=0.4, weights=(1, 2, 3, 4, 5, 6)),
    geometry.ModelStock(weights=(1, 2, 3, 4, 5, 6)),
    spectral.LowRankSum(weights=(1, 2, 3, 4, 5, -6)),
    *OF_EXPERTS,
]


def test_all_cores_are_needed_in_the_space_of_knots_alone():
    assert {each.name for each in in_cores() if each.holds_cores} == {"knots"}
    for each in (elementwise.Dare, selecting.MagMax):
        assert each(space="knots").holds_cores
    assert not any(each.holds_cores for each in OPTIONS)


@pytest.mark.parametrize("method", [*IN_CORES, *OPTIONS], ids=lambda each: each.name)
def test_merging_a_few_rows_at_a_time_is_merging_all_at_once(monkeypatch, method):
    """To 1e-9 of the greatest number: rounding, in equations that magnify it."""
    experts = loras()
    expected = product(merged(method, experts))
    monkeypatch.setattr(products, "_PART_BYTES", 3 * 6 * 8 * 8)  # of 8 rows
    monkeypatch.setattr(products, "_MOST_BYTES", 0)  # all cores are never made
    merged_product = product(merged(method, experts))
    np.testing.assert_allclose(
        merged_product, expected, atol=1e-9 * np.abs(expected).max()
    )


def test_the_sum_of_loras_is_that_of_their_products():
    """To 1e-12 of sums of 12 products near 1: also where their core is all axes."""
    experts = loras()
    merged_product = product(
        merged(spectral.LowRankSum(weights=(1, 2, 0, -1, 1, 3)), experts)
    )
    each = zip((1, 2, 0, -1, 1, 3), experts, strict=True)
    close(merged_product, sum(weight * product(expert) for weight, expert in each))


@pytest.mark.parametrize(
    "method", [*IN_CORES, *OF_EXPERTS[:3]], ids=lambda each: each.name
)
def test_memory_does_not_grow_by_a_core_for_each_expert(monkeypatch, method):
    """Of 90 experts in 150 axes: cores take 16 MB, all that is held less than half.

    It is no more than is told before a merge. Three copies of one core, and the narrow
    matrices, are in the bound of what ranks all that an expert changes.
    """
    experts = loras(count=90, width=150)
    monkeypatch.setattr(products, "_PART_BYTES", 1 << 18)
    monkeypatch.setattr(elementwise, "_AT_ONCE", 1 << 14)
    tracemalloc.start()
    merged(method, experts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    bound = products.held_bytes((90, 150, 150), 2, has_all=False)
    if method.ranks_experts:
        bound += (90 * 2 * 300 + 3 * 150 * 150) * 8
    bound += 1 << 16  # of the interpreter, more with newer versions of NumPy
    assert peak < bound < 90 * 150 * 150 * 8 / 2


def test_what_needs_all_cores_at_once_is_refused_with_their_bytes():
    """296 LoRAs of rank 8 in 2048 axes: 296 x 2048 x 2048 x 8 bytes."""
    stack = products.Products(
        np.broadcast_to(1.0, (296, 2048, 8)), np.broadcast_to(1.0, (296, 8, 2048))
    )
    assert [*stack.parts()][0] == slice(0, 6)  # 32 MiB
    with pytest.raises(errors.ConfigError, match="9,932,111,872 bytes in one layer"):
        stack.some(...)
    with pytest.raises(errors.ConfigError, match="compare fewer"):
        products.check_all_fit(stack.shape, 8, do="compare fewer")


def test_knots_tells_what_takes_less_memory(monkeypatch):
    monkeypatch.setattr(products, "_MOST_BYTES", 6 * 8 * 8 * 8 - 1)
    with pytest.raises(errors.ConfigError, match="hold a few rows at a time"):
        merged(spectral.Knots(), loras())
