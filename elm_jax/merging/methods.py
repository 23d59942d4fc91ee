"""Merge methods by name: experts in, one expert out; trees only, no files.

A method is a linear combination of trees, computed in one place that keeps the
promises all of them share: sums are taken in float64 over sorted terms, so the order
of the experts never changes a bit; a tree with coefficient 0 is not read; a single
tree with coefficient 1 comes back bit for bit.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from elm_jax import errors, trees
from elm_jax.types import Params

# Elements combined at once: bounds the float64 copies and keeps them in cache.
CHUNK_SIZE = 1 << 18

MergeFn = Callable[
    [Sequence[Params], Sequence[float], Params | None, float], dict[str, Any]
]


@dataclasses.dataclass(frozen=True)
class MergeMethod:
    """A way to make one expert of several.

    Attributes:
      name: What users call it.
      fn: `(experts, weights, base, scale) -> merged`, a pure function of trees of
        equal names, shapes and dtypes.
      takes_weights: Whether weights mean anything to it.
      needs_base: Whether it starts from the base, and so takes a scale.
      reference: Where it was proposed.
    """

    name: str
    fn: MergeFn
    takes_weights: bool
    needs_base: bool
    reference: str


def merge(
    method: str,
    experts: Sequence[Params],
    *,
    weights: Sequence[float] | None = None,
    base: Params | None = None,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Returns the expert that a method makes of `experts`.

    Laws, kept bit for bit by every method: the order of the experts (with their
    weights) does not matter; equal experts merge to themselves under the default
    weights of the averages; one expert merges to itself; weights [1, 0, 0] give the
    first. Task arithmetic with scale 0 gives the base.

    Args:
      method: A name in `METHODS`.
      experts: One or more trees with equal names, shapes and floating dtypes.
      weights: One finite number per expert. For `weighted`, at least 0 and not all
        0; only their ratios count. For `task_arithmetic`, any; 1 each if None.
      base: What the experts started from, with exactly the experts' leaves; for
        methods that need it, and only for them. Adapters start from nothing: for
        experts with any see `effects.task_arithmetic`.
      scale: Factor on the sum of weighted differences from the base.

    Returns:
      NumPy arrays in the dtypes of the experts, rounded once from float64.

    Raises:
      ConfigError: Unknown method, no experts, trees that differ, weights or a scale
        that are wrong or would be ignored, or a result that is not finite.
    """
    chosen = check_options(method, len(experts), weights=weights, scale=scale)
    _check_trees(experts, base, needs_base=chosen.needs_base, method=method)
    given = [1.0] * len(experts) if weights is None else [float(w) for w in weights]
    return chosen.fn(experts, given, base, scale)


def check_options(
    method: str,
    num_experts: int,
    *,
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
) -> MergeMethod:
    """Returns a method by name, after a look at its options; reads no tree.

    Raises:
      ConfigError: Unknown method, or weights or a scale that are wrong or would be
        ignored.
    """
    if method not in METHODS:
        raise errors.ConfigError(
            found=f"merge method {method!r}",
            expected=f"one of {', '.join(sorted(METHODS))}",
            do=errors.did_you_mean(method, METHODS),
        )
    _check_numbers(METHODS[method], num_experts, weights, scale)
    return METHODS[method]


def average(
    experts: Sequence[Params],
    weights: Sequence[float],
    base: Params | None,
    scale: float,
) -> dict[str, Any]:
    """Returns the mean of the experts, weighted by `weights` over their sum."""
    del base, scale
    total = math.fsum(weights)
    if total <= 0 or min(weights) < 0:
        _refuse(
            found=f"weights {list(weights)}",
            expected="weights of at least 0 with a sum above 0",
            do="Use task_arithmetic to subtract an expert",
        )
    return _combine(experts, [weight / total for weight in weights])


def task_arithmetic(
    experts: Sequence[Params],
    weights: Sequence[float],
    base: Params | None,
    scale: float,
) -> dict[str, Any]:
    """Returns `base + scale * sum_i weights_i * (experts_i - base)`.

    The terms of the base are gathered, `(1 - scale * sum_i weights_i) * base`, so
    that no digit of an expert is lost in a difference that is added back.
    """
    if base is None:
        raise ValueError("task arithmetic starts from a base")
    factors = [scale * weight for weight in weights]
    return _combine([base, *experts], [1.0 - math.fsum(factors), *factors])


METHODS: Mapping[str, MergeMethod] = {
    method.name: method
    for method in (
        MergeMethod(
            name="uniform",
            fn=average,
            takes_weights=False,
            needs_base=False,
            reference="Jang et al. 2023, arXiv:2302.03202 (top-k experts); "
            "Wortsman et al. 2022, arXiv:2203.05482 (uniform soup)",
        ),
        MergeMethod(
            name="weighted",
            fn=average,
            takes_weights=True,
            needs_base=False,
            reference="Matena and Raffel 2022, arXiv:2111.09832 (isotropic merging)",
        ),
        MergeMethod(
            name="task_arithmetic",
            fn=task_arithmetic,
            takes_weights=True,
            needs_base=True,
            reference="Ilharco et al. 2023, arXiv:2212.04089, section 2",
        ),
    )
}


def _combine(
    operands: Sequence[Params], coefficients: Sequence[float]
) -> dict[str, Any]:
    """Returns the sum of coefficient times tree, leaf by leaf."""
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
        if not np.all(np.isfinite(merged[name])):
            _refuse(
                found=f"the merged parameter {name} is not finite",
                expected="finite parameters and sums within their dtype",
                do="Check the experts for NaN and the weights for size",
            )
    return trees.unflatten(merged)


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


def _check_trees(
    experts: Sequence[Params], base: Params | None, *, needs_base: bool, method: str
) -> None:
    if needs_base != (base is not None):
        _refuse(
            found=f"{method} {'without' if needs_base else 'with'} a base",
            expected=f"{'a' if needs_base else 'no'} base for this method",
            do="Give a base to methods that need it, and only to them",
        )
    check_alike(experts, base)


def check_alike(experts: Sequence[Params], base: Params | None = None) -> None:
    """Raises ConfigError unless there are experts, all of the same leaves.

    Args:
      experts: Trees.
      base: Must have their leaves too, if given.
    """
    if not experts:
        _refuse(
            found="no experts",
            expected="one or more experts",
            do="Name the experts to merge",
        )
    others = [(f"expert {n}", tree) for n, tree in enumerate(experts)][1:]
    if base is not None:
        others.append(("the base", base))
    expected = trees.flatten(experts[0])
    for name, leaf in expected.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            _refuse(
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
            _refuse(
                found=f"{who} differs from expert 0: {difference}",
                expected="equal names, shapes and dtypes",
                do="Merge experts of one kind and one base, in one dtype",
            )


def _check_numbers(
    method: MergeMethod,
    num_experts: int,
    weights: Sequence[float] | None,
    scale: float,
) -> None:
    if not method.needs_base and scale != 1.0:
        _refuse(
            found=f"scale {scale} for {method.name}",
            expected="a scale only for methods that start from the base",
            do="Leave the scale out or use task_arithmetic",
        )
    if not math.isfinite(scale):
        _refuse(found=f"scale {scale}", expected="a finite number", do="Correct it")
    if weights is None:
        return
    if not method.takes_weights:
        _refuse(
            found=f"weights for {method.name}",
            expected="no weights",
            do="Leave them out or use weighted",
        )
    if len(weights) != num_experts or not all(math.isfinite(w) for w in weights):
        _refuse(
            found=f"weights {list(weights)} for {num_experts} experts",
            expected="one finite weight per expert",
            do="Give as many numbers as experts",
        )


def _refuse(*, found: str, expected: str, do: str) -> None:
    raise errors.ConfigError(found=found, expected=expected, do=do)
