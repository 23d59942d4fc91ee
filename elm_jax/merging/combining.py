"""Linear combinations of trees, in the one place that keeps their promises.

Sums are taken in float64 over sorted terms, so the order of the trees never changes a
bit; a tree with coefficient 0 is not read; a single tree with coefficient 1 comes back
bit for bit.
"""

from collections.abc import Sequence
from typing import Any, Never

import jax.numpy as jnp
import numpy as np

from elm_jax import errors, trees
from elm_jax.merging import threads
from elm_jax.types import Params

# Elements combined at once: bounds the float64 copies and keeps them in cache.
CHUNK_SIZE = 1 << 14
_MOST_SORTED = 4  # terms that are all sorted, which takes less time than a check
_MOST_COMPARED = 8  # terms that are sorted by comparing all neighbours
_EXPONENT_BITS = {"bfloat16": 0x7F80, "float16": 0x7C00}


class NotFiniteError(errors.ConfigError):
    """A parameter that is merged, or would come of it, is NaN or infinite."""


def combine(
    operands: Sequence[Params], coefficients: Sequence[float]
) -> dict[str, Any]:
    """Returns the sum of coefficient times tree, leaf by leaf.

    Args:
      operands: One or more trees of equal names, shapes and dtypes.
      coefficients: One finite number for each.

    Returns:
      NumPy arrays in the dtypes of the trees, rounded once from float64.

    Raises:
      ConfigError: A result is not finite.
    """
    used = [
        (trees.flatten(tree), coefficient)
        for tree, coefficient in zip(operands, coefficients, strict=True)
        if coefficient != 0.0
    ]
    factors = np.array([coefficient for _, coefficient in used])
    merged = {}
    for name, like in trees.flatten(operands[0]).items():
        leaves = [np.asarray(leaves[name]) for leaves, _ in used]
        merged[name] = _combine_leaves(leaves, factors, like=np.asarray(like))
        check_finite(name, merged[name])
    return trees.unflatten(merged)


class RunningMean:
    """The mean of trees that come one after another; one sum is kept, in float64.

    Memory does not grow with their number. The order in which they come may change the
    last bit of a sum, so whoever gives them gives them in an order of their own.
    """

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._dtypes: dict[str, np.dtype] = {}
        self._count = 0

    def add(self, tree: Params) -> None:
        """Adds a tree.

        Raises:
          ConfigError: It has not the leaves, shapes and dtypes of the first one.
        """
        leaves = {name: np.asarray(leaf) for name, leaf in trees.flatten(tree).items()}
        if not self._count:
            self._dtypes = {name: leaf.dtype for name, leaf in leaves.items()}
            # Starting from the first term, not from 0.0, keeps the sign of zeros.
            self._sums = {n: leaf.astype(np.float64) for n, leaf in leaves.items()}
            self._count = 1
            return
        expected = {n: (s.shape, self._dtypes[n]) for n, s in self._sums.items()}
        if {n: (leaf.shape, leaf.dtype) for n, leaf in leaves.items()} != expected:
            refuse(
                found=f"expert {self._count + 1} that differs from expert 1",
                expected="equal names, shapes and dtypes",
                do="Merge experts of one kind and one base, in one dtype",
            )
        for name, leaf in leaves.items():
            self._sums[name] += leaf
        self._count += 1

    def mean(self) -> dict[str, Any]:
        """Returns the mean of one or more trees, in their dtypes, rounded once.

        Raises:
          ConfigError: A result is not finite.
        """
        means = {}
        for name, total in self._sums.items():
            means[name] = (total / self._count).astype(self._dtypes[name])
            check_finite(name, means[name])
        return trees.unflatten(means)


def copied(expert: Params) -> dict[str, Any]:
    """Returns a copy of an expert; raises ConfigError if a number is not finite."""
    leaves = {name: np.array(leaf) for name, leaf in trees.flatten(expert).items()}
    for name, leaf in leaves.items():
        check_finite(name, leaf)
    return trees.unflatten(leaves)


def check_finite(name: str, leaf: np.ndarray) -> None:
    """Raises ConfigError for a merged parameter that is not finite."""
    if not is_finite(leaf):
        raise NotFiniteError(
            found=f"the merged parameter {name} is not finite",
            expected="finite parameters, and sums and products within their dtype",
            do="Check the experts for NaN and the weights for size",
        )


def check_given(who: str, tree: Params) -> None:
    """Raises ConfigError for a parameter that is not finite, before it is merged.

    What keeps only some numbers, or compares them, may hide in its result that they
    were not finite.

    Args:
      who: Whose parameters they are, such as `expert 1 of 3`.
      tree: The parameters.
    """
    for name, leaf in trees.flatten(tree).items():
        if not is_finite(np.asarray(leaf)):
            raise NotFiniteError(
                found=f"parameter {name} of {who} is not finite",
                expected="finite parameters of the experts and of the base",
                do="Leave this expert out, or train it again",
            )


def check_each_given(named: Sequence[tuple[str, Params]]) -> None:
    """Raises what `check_given` does for the first expert that it refuses."""
    numbers = sum(trees.count_params(expert) for _, expert in named)
    threads.each(lambda each: check_given(*each), named, numbers=numbers)


def is_finite(leaf: np.ndarray) -> bool:
    """Returns whether all numbers are finite; takes little more than reading them."""
    flat = np.ravel(leaf)
    if flat.dtype.itemsize > 2:  # noqa: PLR2004 - numpy adds others up one by one
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(flat.sum()):  # then so is each; it takes less time
                return True
    starts = range(0, flat.size, CHUNK_SIZE)
    return all(_all_finite(flat[start : start + CHUNK_SIZE]) for start in starts)


def _all_finite(part: np.ndarray) -> bool:
    exponent_bits = _EXPONENT_BITS.get(part.dtype.name)
    if exponent_bits is None:
        return bool(np.isfinite(part).all())
    # Without its sign, what is not finite has the greatest exponent.
    return int((part.view(np.uint16) & 0x7FFF).max()) < exponent_bits


def check_alike(experts: Sequence[Params], base: Params | None = None) -> None:
    """Raises ConfigError unless experts have the same leaves, all of them floating.

    Args:
      experts: One or more trees.
      base: Must have their leaves too, if given.
    """
    compared = [(f"expert {n}", tree) for n, tree in enumerate(experts, start=1)][1:]
    if base is not None:
        compared.append(("the base", base))
    expected = trees.flatten(experts[0])
    for name, leaf in expected.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            refuse(
                found=f"parameter {name} of dtype {leaf.dtype}",
                expected="floating-point parameters",
                do="Leave it out of the expert",
            )
    for who, tree in compared:
        difference = str(trees.diff(tree, experts[0])) or "; ".join(
            f"{name} {leaf.dtype} instead of {expected[name].dtype}"
            for name, leaf in trees.flatten(tree).items()
            if leaf.dtype != expected[name].dtype
        )
        if difference:
            refuse(
                found=f"{who} differs from expert 1: {difference}",
                expected="equal names, shapes and dtypes",
                do="Merge experts of one kind and one base, in one dtype",
            )


def refuse(*, found: str, expected: str, do: str) -> Never:
    """Raises ConfigError."""
    raise errors.ConfigError(found=found, expected=expected, do=do)


def _combine_leaves(
    leaves: Sequence[np.ndarray], factors: np.ndarray, *, like: np.ndarray
) -> np.ndarray:
    flat = [np.ravel(leaf) for leaf in leaves]
    out = np.empty(like.size, like.dtype)
    space = np.empty((2, min(CHUNK_SIZE, like.size)))  # once: new memory is slow
    with np.errstate(over="ignore", invalid="ignore"):  # the caller tells, by name
        for start in range(0, like.size, CHUNK_SIZE):
            part = slice(start, start + CHUNK_SIZE)
            terms = [_as_numpy_float(leaf[part]) for leaf in flat]
            out[part] = _rounded_sum(terms, factors, like.dtype, space)
    return out.reshape(like.shape)


def _rounded_sum(
    terms: Sequence[np.ndarray],
    factors: np.ndarray,
    dtype: np.dtype,
    space: np.ndarray,
) -> np.ndarray:
    """Returns what `_sorted_sum` gives, rounded; most of it without sorting.

    Two sums of the same n products in any two orders differ by at most 2 (n - 1) u A,
    where u = 2**-53 and A is the sum of their absolute values (Higham 2002, Accuracy
    and Stability of Numerical Algorithms, section 4.2). Where both ends of that range
    are rounded to the same number of `dtype`, so is the sum over sorted terms.
    """
    is_few = 2 < len(terms) <= _MOST_SORTED  # noqa: PLR2004 - any two are in order
    if is_few or (len(terms) > 2 and dtype.itemsize >= 8):
        return _sorted_sum(terms, factors).astype(dtype)
    total, product = space[:, : len(terms[0])]
    np.copyto(total, terms[0])
    total *= factors[0]
    for term, factor in zip(terms[1:], factors[1:], strict=True):
        np.copyto(product, term)
        product *= factor
        total += product
    if len(terms) <= 2:  # every order gives the same
        return total.astype(dtype)
    most = 0.0
    for term, factor in zip(terms, factors, strict=True):
        most += abs(float(factor)) * max(abs(float(term.max())), abs(float(term.min())))
    # A little more than the bound, for the roundings in computing it.
    bound = 2.5 * (len(terms) - 1) * 2.0**-53 * most
    low = np.subtract(total, bound, out=product).astype(dtype)
    high = np.add(total, bound, out=product).astype(dtype)
    bits = np.dtype(f"u{dtype.itemsize}")
    places = np.flatnonzero(low.view(bits) != high.view(bits))
    if len(places):
        low[places] = _sorted_sum([t[places] for t in terms], factors).astype(dtype)
    return low


def _sorted_sum(terms: Sequence[np.ndarray], factors: np.ndarray) -> np.ndarray:
    """Returns the sum of products in float64, added from the least to the greatest."""
    products = np.stack([term.astype(np.float64) for term in terms])
    products *= factors[:, None]
    if len(products) > _MOST_COMPARED:
        return _added([*np.sort(products, axis=0)])
    total = _added(_compared(products.copy()))
    zeros = np.flatnonzero(total == 0.0)
    if len(zeros):  # of two zeros of other signs, comparing may have lost one
        total[zeros] = _added([*np.sort(products[:, zeros], axis=0)])
    return total


def _compared(rows: np.ndarray) -> list[np.ndarray]:
    """Returns the same rows sorted along axis 0, in place but for their order.

    Neighbours are compared and exchanged for whole rows, as bubble sort does; numpy
    sorts such short columns one by one, which takes several times as long.
    """
    sorted_rows, spare = [*rows], np.empty_like(rows[0])
    for end in range(len(sorted_rows) - 1, 0, -1):
        for place in range(end):
            low, high = sorted_rows[place], sorted_rows[place + 1]
            np.minimum(low, high, out=spare)
            np.maximum(low, high, out=high)
            sorted_rows[place], spare = spare, low
    return sorted_rows


def _added(rows: Sequence[np.ndarray]) -> np.ndarray:
    # Starting from the first term, not from 0.0, keeps the sign of zeros.
    total = rows[0]
    for row in rows[1:]:
        total += row
    return total


def _as_numpy_float(part: np.ndarray) -> np.ndarray:
    """Returns bfloat16 as float32, exactly, which numpy itself cannot; others stay."""
    if part.dtype.name != "bfloat16":
        return part
    return (part.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
