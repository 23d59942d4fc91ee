"""A few fixed shapes for examples of many lengths.

Each shape costs one compilation, and each token of padding costs work. `choose_shapes`
balances the two; `assign_shapes` finds the smallest shape that each example fits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors

# Lengths are rounded up to a multiple of this: vector units prefer it, and datasets of
# similar lengths then share shapes.
MULTIPLE = 4
_MAX_CANDIDATES = 1024


class Lengths(NamedTuple):
    """Lengths of one batch's inputs and targets in tokens."""

    inputs_length: int
    targets_length: int


def choose_shapes(
    lengths: np.ndarray, *, num_shapes: int, multiple: int = MULTIPLE
) -> tuple[Lengths, ...]:
    """Returns up to `num_shapes` shapes that need little padding for the examples.

    One shape has room for every example. The others are added one by one, each where
    it saves most padding; more shapes never pad more.

    >>> [tuple(s) for s in choose_shapes(np.array([[5, 2], [40, 2]]), num_shapes=2)]
    [(8, 4), (40, 4)]

    Args:
      lengths: int [examples, 2], tokens of inputs and of targets.
      num_shapes: Most shapes there may be, at least 1.
      multiple: Lengths are rounded up to a multiple of it; a coarser one if there
        would be very many lengths to choose from.
    """
    rounded = -(-np.maximum(lengths, 1) // multiple) * multiple
    kinds, counts = np.unique(rounded, axis=0, return_counts=True)
    axes = np.unique(kinds[:, 0]), np.unique(kinds[:, 1])
    if len(axes[0]) * len(axes[1]) > _MAX_CANDIDATES:
        return choose_shapes(lengths, num_shapes=num_shapes, multiple=2 * multiple)
    candidates = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    fits = np.all(kinds[None] <= candidates[:, None], axis=2)  # [candidates, kinds]
    cells = candidates.sum(axis=1)
    chosen = [len(candidates) - 1]  # The largest in both lengths.
    padded = np.full(len(kinds), cells[-1])  # Cells of one example of each kind.
    while len(chosen) < num_shapes:
        gain = np.maximum(padded - cells[:, None], 0)
        saved = np.sum(fits * counts * gain, axis=1)
        best = int(np.argmax(saved))
        if saved[best] == 0:
            break
        chosen.append(best)
        padded = np.where(fits[best], np.minimum(padded, cells[best]), padded)
    shapes = [Lengths(*map(int, candidates[index])) for index in chosen]
    return tuple(sorted(shapes, key=_area))


def assign_shapes(lengths: np.ndarray, shapes: Sequence[Lengths]) -> np.ndarray:
    """Returns the index of the smallest shape each example fits: int [examples].

    Args:
      lengths: int [examples, 2], tokens of inputs and of targets.
      shapes: In the order of `choose_shapes`.

    Raises:
      ConfigError: An example fits none.
    """
    assigned = np.full(len(lengths), -1)
    order = sorted(range(len(shapes)), key=lambda index: _area(shapes[index]))
    for index in reversed(order):
        assigned[(lengths <= np.asarray(shapes[index])).all(axis=1)] = index
    if (assigned < 0).any():
        longest = lengths[assigned < 0].max(axis=0)
        raise errors.ConfigError(
            found=f"examples of up to {tuple(map(int, longest))} tokens",
            expected=f"room in one of the shapes {[tuple(s) for s in shapes]}",
            do="Add a larger shape, or let the shapes be chosen from the data",
        )
    return assigned


def _area(shape: Lengths) -> tuple[int, int]:
    return sum(shape), shape.inputs_length
