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
from elm_jax.types import Params

# Elements combined at once: bounds the float64 copies and keeps them in cache.
CHUNK_SIZE = 1 << 18


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


def check_finite(name: str, leaf: np.ndarray) -> None:
    """Raises ConfigError for a merged parameter that is not finite."""
    if not np.all(np.isfinite(leaf)):
        refuse(
            found=f"the merged parameter {name} is not finite",
            expected="finite parameters, and sums and products within their dtype",
            do="Check the experts for NaN and the weights for size",
        )


def check_alike(experts: Sequence[Params], base: Params | None = None) -> None:
    """Raises ConfigError unless experts have the same leaves, all of them floating.

    Args:
      experts: One or more trees.
      base: Must have their leaves too, if given.
    """
    others = [(f"expert {n}", tree) for n, tree in enumerate(experts)][1:]
    if base is not None:
        others.append(("the base", base))
    expected = trees.flatten(experts[0])
    for name, leaf in expected.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            refuse(
                found=f"parameter {name} of dtype {leaf.dtype}",
                expected="floating-point parameters",
                do="Leave it out of the expert",
            )
    for who, tree in others:
        difference = str(trees.diff(tree, experts[0])) or "; ".join(
            f"{name} {leaf.dtype} instead of {expected[name].dtype}"
            for name, leaf in trees.flatten(tree).items()
            if leaf.dtype != expected[name].dtype
        )
        if difference:
            refuse(
                found=f"{who} differs from expert 0: {difference}",
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
    for start in range(0, like.size, CHUNK_SIZE):
        part = slice(start, start + CHUNK_SIZE)
        terms = np.stack([leaf[part].astype(np.float64) for leaf in flat])
        terms *= factors[:, None]
        terms.sort(axis=0)
        # Starting from the first term, not from 0.0, keeps the sign of zeros.
        total = terms[0]
        for term in terms[1:]:
            total += term
        with np.errstate(over="ignore"):  # reported by name, once, by the caller
            out[part] = total.astype(like.dtype)
    return out.reshape(like.shape)
