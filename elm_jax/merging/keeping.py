"""Which numbers of a change are kept, and how the kept ones are scaled up again.

Each function takes what one expert changes in one layer, float64 [...], and the share
`density` in (0, 1] that is to be left, and returns the change with zeros elsewhere. Of
n numbers `int(density * n)` are left, at least 1.
"""

import dataclasses
import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from elm_jax.merging import stacks, threads

Keep = Literal["all", "magnitude", "random", "outliers", "della"]
Rescale = Literal["none", "density", "l1"]
Source = np.random.Generator | None
"""Of chance, for those ways that need it."""


def sparsify(
    change: np.ndarray,
    keep: Keep,
    density: float,
    dropped: float,
    spread: float,
    rng: Source,
) -> np.ndarray:
    """Returns what is kept of a change by any of the ways.

    Args:
      change: Of one expert.
      keep: The way.
      density: The share that is left.
      dropped: The share of the greatest numbers that goes first, for "outliers".
      spread: How much the chances of the least and the greatest differ, for "della".
      rng: Source of chance, for "random" and "della".
    """
    if keep == "all":
        return change
    if keep == "magnitude":
        return magnitude(change, density)
    if rng is None:
        return outliers(change, density, dropped)
    if keep == "random":
        return random(change, density, rng)
    return della(change, density, spread, rng)


def magnitude(change: np.ndarray, density: float) -> np.ndarray:
    """Returns the change with its greatest numbers; of equal ones the first.

    >>> magnitude(np.array([3.0, -1.0, -4.0, 2.0]), 0.5).tolist()
    [3.0, 0.0, -4.0, 0.0]
    """
    return _or_zero(change, _greatest(change, _count(change, density)))


def least(change: np.ndarray, density: float) -> float:
    """Returns the least size among the change's greatest numbers.

    >>> least(np.array([3.0, -1.0, -4.0, 2.0]), 0.5)
    3.0
    """
    count = _count(change, density)
    return float(np.partition(np.abs(change), -count, axis=None)[-count])


def outliers(change: np.ndarray, density: float, dropped: float) -> np.ndarray:
    """Returns the change without its greatest numbers, and then the next greatest.

    >>> outliers(np.array([3.0, -1.0, -4.0, 2.0]), 0.5, 0.25).tolist()
    [3.0, 0.0, 0.0, 2.0]

    Args:
      change: Of one expert.
      density: The share that is left.
      dropped: The share of the greatest ones that goes first, in [0, 1). If that
        and `density` are together more than all, fewer are dropped.
    """
    count = _count(change, density)
    num_dropped = min(int(dropped * change.size), change.size - count)
    is_kept = _greatest(change, num_dropped + count) & ~_greatest(change, num_dropped)
    return np.where(is_kept, change, 0.0)


def random(change: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the change with each number kept by a chance of `density`."""
    return np.where(rng.random(change.shape) < density, change, 0.0)


def della(
    change: np.ndarray, density: float, spread: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns the change with greater numbers kept by a greater chance.

    In each row, the last axis, the number of rank i of m by size is kept by the chance
    `density - spread + 2 * spread * (i - 1) / (m - 1)`, i = m for the greatest.

    Args:
      change: Of one expert.
      density: The mean chance.
      spread: How much less the least number's chance is, and the greatest's more.
      rng: Source of chance.
    """
    rows = np.atleast_1d(change)
    ranks = np.argsort(np.argsort(np.abs(rows), axis=-1, kind="stable"), axis=-1)
    most = rows.shape[-1] - 1
    share = ranks / most if most else np.full(rows.shape, 0.5)
    chance = (density - spread + 2 * spread * share).reshape(change.shape)
    return np.where(rng.random(change.shape) < chance, change, 0.0)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is kept of one expert's change, without its numbers.

    Attributes:
      bits: Which numbers, packed along the last axis.
      factor: What the numbers that are kept are multiplied by.
    """

    bits: np.ndarray
    factor: float

    def of(self, some: np.ndarray, rows: stacks.Rows) -> np.ndarray:
        """Returns what is kept of some rows of the change, in zeros."""
        width = some.shape[-1] if some.ndim else 1
        bits = np.unpackbits(self.bits[rows], axis=-1, count=width)
        scaled = some if self.factor == 1.0 else some * self.factor
        return _or_zero(scaled, bits.reshape(some.shape))


def trimmed(
    changes: np.ndarray, choices: Sequence[Choice], rows: stacks.Rows
) -> np.ndarray:
    """Returns the same changes of some rows, all but what is kept made 0.

    Args:
      changes: Of each expert, which are written into.
      choices: One for each; none if all is kept.
      rows: Which the changes are of.
    """

    def write(place: int) -> None:
        changes[place] = choices[place].of(changes[place], rows)

    threads.each(write, range(len(choices)), numbers=changes.size)
    return changes


def chosen(
    kept_numbers: np.ndarray, change: np.ndarray, density: float, how: Rescale
) -> Choice:
    """Returns which numbers were kept, and the factor that scales them up.

    Args:
      kept_numbers: What is left of `change`.
      change: All of it.
      density: The share that was to be left.
      how: By what rule the rest is scaled up; see `factor`.
    """
    bits = np.packbits(np.atleast_1d(kept_numbers != 0), axis=-1)
    return Choice(bits, factor(kept_numbers, change, density, how))


def factor(
    kept_numbers: np.ndarray, change: np.ndarray, density: float, how: Rescale
) -> float:
    """Returns the factor of kept numbers, which makes up for the dropped ones.

    Args:
      kept_numbers: What is left of `change`.
      change: All of it.
      density: The share that was to be left.
      how: "density" divides by it, as DARE's paper; "l1" gives the sum of sizes that
        `change` has, as mergekit; "none" leaves them.
    """
    if how == "density":
        return 1.0 / density
    if how == "l1":
        kept_sum = float(np.abs(kept_numbers).sum())
        return float(np.abs(change).sum()) / kept_sum if kept_sum else 1.0
    return 1.0


def generators(
    name: str, layer: Iterable[np.ndarray], random_seed: int
) -> list[np.random.Generator]:
    """Returns a source of chance for each expert in one layer.

    It depends on the seed, the layer's name and the sizes of what the expert changes
    there, so that neither the order of experts nor the rest of them changes it. Experts
    that change the same get different ones.

    Args:
      name: Of the layer.
      layer: What each expert changes, [...].
      random_seed: Of the method.
    """
    counts: dict[int, int] = {}
    rngs = []
    for change in layer:
        mark = zlib.crc32(np.abs(change).tobytes())
        counts[mark] = counts.get(mark, -1) + 1
        seed = [random_seed, zlib.crc32(name.encode()), mark, counts[mark]]
        rngs.append(np.random.default_rng(seed))
    return rngs


def _or_zero(numbers: np.ndarray, are_kept: np.ndarray) -> np.ndarray:
    """Returns numbers with zeros in place of those that are not kept.

    `np.where` takes several times as long, as it decides about each number. Integers of
    the same bits times 0 are those of 0.0, also of negative numbers.

    >>> _or_zero(np.array([3.0, -1.0]), np.array([True, False])).tolist()
    [3.0, 0.0]
    """
    bits = numbers.view(f"i{numbers.dtype.itemsize}")
    return (bits * are_kept).view(numbers.dtype)


def _count(change: np.ndarray, density: float) -> int:
    return max(1, int(density * change.size))


def _greatest(change: np.ndarray, count: int) -> np.ndarray:
    """Returns where the greatest numbers are; of equal ones the first."""
    sizes = np.abs(change).ravel()
    if count in (0, sizes.size):
        return np.full(change.shape, count > 0)
    least = np.partition(sizes, sizes.size - count)[sizes.size - count]
    is_greatest = sizes >= least
    surplus = np.count_nonzero(is_greatest) - count
    if surplus > 0:
        is_greatest[np.flatnonzero(sizes == least)[-surplus:]] = False
    return is_greatest.reshape(change.shape)
