"""Parameters a layer at a time: what papers call a tensor, or a matrix."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from elm_jax.types import LAYERS


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
