"""Parameters a layer at a time, what papers call a tensor or a matrix, and shapes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from elm_jax.merging.method import Layout
from elm_jax.types import LAYERS, Side


def units(name: str, leaf: np.ndarray) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yields the layers of a leaf: their names, and where they are in it.

    A leaf below a key `layers` holds a stack of layers on axis 0; any other is one.

    >>> [*units("encoder/layers/mlp/wi", np.zeros((2, 3)))]
    [('encoder/layers_0/mlp/wi', (0, Ellipsis)), ('encoder/layers_1/mlp/wi', (1, \
Ellipsis))]
    """
    head, stacked, tail = name.partition(f"/{LAYERS}/")
    if not stacked:
        yield name, (...,)
        return
    for layer in range(leaf.shape[0]):
        yield f"{head}/{LAYERS}_{layer}/{tail}", (layer, ...)


def widened(dims: Sequence[int], side: Side | None, layout: Layout) -> tuple[int, ...]:
    """Returns the shape of a merged parameter.

    Args:
      dims: An expert's shape.
      side: How adapters lie in it; None for other parameters.
      layout: As the method tells of so many experts.
    """
    shape = [*dims]
    if side is not None:
        shape[side.axis] *= layout.num_beside
        if side.is_linear and layout.rank:
            shape[side.axis] = layout.rank
    return tuple(shape)
