"""Which experts a merge is refused for, as their parameters are not finite."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import combining
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import loaded


@contextlib.contextmanager
def naming(
    method: MergeMethod, experts: Mapping[str, Mapping[str, Any]]
) -> Iterator[None]:
    """Names the experts that are not finite, if what is done within fails for that.

    Only then are their parameters looked at, those on disk read once more.

    Args:
      method: How the experts are merged within; those of weight 0 are left out.
      experts: The parameters of each by name, arrays or leaves on disk; by what a
        message calls the expert, in the order in which the user gave them.

    Raises:
      NotFiniteError: It was raised within. Where no expert is the reason, it stays as
        it was: a sum is too large, or the base is not finite.
    """
    try:
        yield
    except combining.NotFiniteError as error:
        labels = [*experts]
        problems = []
        for place in method.weighted(len(labels)):
            if parameter := _first_bad(experts[labels[place]]):
                problems.append(f"parameter {parameter} of {labels[place]}")
        if not problems:
            raise
        raise combining.NotFiniteError(
            found="; ".join(f"{problem} is not finite" for problem in problems),
            expected="finite parameters of all experts that are merged",
            do="Leave out what is named here, or train it again",
        ) from error


def label(expert: loaded.Expert, number: int, num_experts: int) -> str:
    """Returns what a message calls one of several experts, which may be in memory.

    Args:
      expert: The expert; its name need not be unique, nor be there.
      number: Which of them it is, from 1.
      num_experts: How many there are.
    """
    if not expert.name:
        return f"expert {number} of {num_experts}"
    place = f" in {expert.folder}" if expert.folder else f" ({number} of {num_experts})"
    return f"expert {expert.name!r}{place}"


def _first_bad(leaves: Mapping[str, Any]) -> str:
    """Returns the name of the first parameter that is not finite; "" without one."""
    for name, leaf in leaves.items():
        parts = leaf.blocks() if isinstance(leaf, Leaf) else [np.asarray(leaf)]
        if not all(combining.is_finite(part) for part in parts):
            return name
    return ""
