"""Tensors that are not in memory yet: what is known of them, and how to read them.

Conversions join and split layers on these, so that no more than one tensor of the
source is in memory at a time.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from elm_jax import errors, trees
from elm_jax.checkpoints import layers
from elm_jax.types import LAYERS

_SHOWN = 5  # tensors in a message
_FLOATS = ("float32", "bfloat16", "float16")


class Tensor(NamedTuple):
    """A stored tensor.

    Attributes:
      shape: The tensor's shape.
      dtype: The tensor's NumPy dtype, which may be bfloat16.
      read: Returns it as an array of numpy.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Leaf(NamedTuple):
    """A leaf of a parameter tree that comes in parts.

    Attributes:
      shape: Of the whole.
      dtype: Of the whole.
      rows: Length on axis 0 of every part but perhaps the last.
      blocks: Gives the parts, which joined on axis 0 are the whole.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    rows: int
    blocks: Callable[[], Iterator[np.ndarray]]


def transposed(tensor: Tensor) -> Tensor:
    """Returns a matrix the other way round."""

    def read_turned() -> np.ndarray:
        return np.ascontiguousarray(tensor.read().T)

    return Tensor(tensor.shape[::-1], tensor.dtype, read_turned)


def whole(tensor: Tensor) -> Leaf:
    """Returns a leaf of one part."""

    def blocks() -> Iterator[np.ndarray]:
        yield tensor.read()

    rows = tensor.shape[0] if tensor.shape else 1
    return Leaf(tensor.shape, tensor.dtype, rows, blocks)


def split_layers(tensor: Tensor, layer_shape: tuple[int, ...]) -> Leaf:
    """Returns a leaf with layers on axis 0 of a tensor that has them on axis 1.

    Args:
      tensor: Holds all layers.
      layer_shape: To give each layer.
    """
    num_layers = tensor.shape[1]

    def blocks() -> Iterator[np.ndarray]:
        array = tensor.read()
        for number in range(num_layers):
            layer = np.ascontiguousarray(array[:, number])
            yield layer.reshape(1, *layer_shape)

    return Leaf((num_layers, *layer_shape), tensor.dtype, 1, blocks)


def stack(plain: Mapping[str, Tensor]) -> dict[str, Leaf]:
    """Returns the leaves of plain tensors, with `layers_<n>` joined to `layers`.

    Raises:
      CheckpointError: Layers of a stack do not hold the same tensors, or one is
        missing.
    """
    single, stacks = layers.group_layers(plain)
    leaves = {name: whole(tensor) for name, tensor in single.items()}
    for name, members in stacks.items():
        ordered = [members[n] for n in sorted(members)]
        dtypes = {tensor.dtype for tensor in ordered}
        dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
        blocks = functools.partial(_read_each, ordered, dtype)
        shape = (len(ordered), *ordered[0].shape)
        leaves[name] = Leaf(shape, dtype, 1, blocks)
    return dict(sorted(leaves.items()))


def _read_each(ordered: list[Tensor], dtype: np.dtype) -> Iterator[np.ndarray]:
    for tensor in ordered:
        yield cast(tensor.read(), dtype)[None]


def unstack(leaves: Mapping[str, Leaf]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields plain tensors by name, in the order of the leaves; inverse of `stack`."""
    for name, leaf in leaves.items():
        above, separator, rest = name.partition(f"/{LAYERS}/")
        if separator:
            rows = itertools.chain.from_iterable(leaf.blocks())
            for number, row in enumerate(rows):
                yield f"{above}/{LAYERS}_{number}/{rest}", row
        else:
            yield name, read(leaf)


class ShapeOnly(NamedTuple):
    """A leaf of which the shape is all that counts."""

    shape: tuple[int, ...]


def plain_shapes(leaves: Mapping[str, Any]) -> dict[str, ShapeOnly]:
    """Returns the shapes that `unstack` gives, by name; leaves need a `shape`."""
    shapes = {}
    for name, leaf in leaves.items():
        above, separator, rest = name.partition(f"/{LAYERS}/")
        for number in range(leaf.shape[0]) if separator else ():
            shapes[f"{above}/{LAYERS}_{number}/{rest}"] = ShapeOnly(
                tuple(leaf.shape[1:])
            )
        if not separator:
            shapes[name] = ShapeOnly(tuple(leaf.shape))
    return shapes


def read(leaf: Leaf) -> np.ndarray:
    """Returns the whole leaf."""
    blocks = list(leaf.blocks())
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_all(leaves: Mapping[str, Leaf], dtype: np.dtype | type) -> dict[str, Any]:
    """Returns the tree of all leaves in memory, in one dtype."""
    arrays = {n: cast(read(leaf), dtype) for n, leaf in leaves.items()}
    return trees.unflatten(arrays)


def cast(array: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Returns an array in a dtype; what is too large for it becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array).astype(dtype, copy=False)


def check_finite(arrays: Mapping[str, np.ndarray], *, of: str) -> None:
    """Raises CheckpointError that names all tensors with NaN or infinity.

    Args:
      arrays: By name, in the dtype in which they will be used.
      of: What they are of, for the message.
    """
    wrong = []
    for name, array in arrays.items():
        if _has_finite_sum(array):
            continue
        count = array.size - int(np.count_nonzero(np.isfinite(array)))
        if count:
            wrong.append(f"{count:,} of {array.size:,} in {name}")
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more tensors" if len(wrong) > _SHOWN else ""
        raise errors.CheckpointError(
            found=f"numbers of {of} that are NaN or infinite, or too large for"
            f" {', '.join(sorted({a.dtype.name for a in arrays.values()}))}:"
            f" {', '.join(wrong[:_SHOWN])}{more}",
            expected="finite numbers, as in every model that works",
            do="Copy the weights again; if they were trained so, take an earlier"
            " checkpoint",
        )


def _has_finite_sum(array: np.ndarray) -> bool:
    """Returns whether an array's sum tells already that its numbers are finite.

    That takes a fourth of the time of looking at each; bfloat16 numpy adds up slowly.
    """
    if array.dtype.name == "bfloat16":
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()))


def check_floats(leaves: Mapping[str, Any], *also: str) -> set[str]:
    """Returns the names of the dtypes of tensors, if all hold numbers of a model.

    Args:
      leaves: What has a `dtype`, by name.
      *also: Names of dtypes that are allowed beside the usual ones.

    Raises:
      CheckpointError: Some tensor holds no such numbers.
    """
    allowed = (*_FLOATS, *also)
    names = [n for n, tensor in leaves.items() if tensor.dtype.name not in allowed]
    dtypes = {tensor.dtype.name for tensor in leaves.values()}
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise errors.CheckpointError(
            found=f"{', '.join(names[:_SHOWN])}{more} of dtypes"
            f" {', '.join(sorted(dtypes))}",
            expected=f"weights in {', '.join(allowed)}",
            do="Use a checkpoint that is not quantised",
        )
    return dtypes


def storage_dtype(leaves: Mapping[str, Leaf], dtype: str) -> np.dtype:
    """Returns the dtype in which to write leaves.

    Args:
      leaves: Of the source.
      dtype: `float32`, `bfloat16`, or `source`: bfloat16 if every leaf is, else
        float32, which holds every bfloat16 and float16 exactly.

    Raises:
      CheckpointError: Some leaf holds no such numbers.
    """
    dtypes = check_floats(leaves)
    if dtype == "source":
        dtype = "bfloat16" if dtypes == {"bfloat16"} else "float32"
    return np.dtype(dtype)
