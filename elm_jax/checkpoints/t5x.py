"""Reads weights that T5X wrote: two formats, two networks, on disk or in a bucket.

Legacy folders hold a msgpack file `checkpoint`, whose leaves are arrays or name a
zarr array beside the file; newer ones an Orbax item `state`. The network
`t5x.examples.t5` has a subtree per layer, `t5x.examples.scalable_t5` has all layers
on axis 1 of each array. Only the weights and the step are read, never the optimiser.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgpack
import numpy as np
from flax import serialization

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import experts, stores, tensors
from elm_jax.checkpoints.tensors import Leaf, Tensor
from elm_jax.types import LAYERS, Params

LEGACY_FILE = "checkpoint"
STATE = "state"
# `encoder/encoder/...`: where the scanned network keeps the layers of a stack.
_SCANNED = re.compile(r"(encoder|decoder)/\1/(.+)")


class Checkpoint(NamedTuple):
    """An opened checkpoint of T5X.

    Attributes:
      plain: Weights by T5X's names, a subtree per layer; empty if it is scanned.
      scanned: Weights by T5X's names, layers on axis 1; empty if it is plain.
      step: Number of updates done.
    """

    plain: Mapping[str, Tensor]
    scanned: Mapping[str, Tensor]
    step: int

    def leaves(self) -> dict[str, Leaf]:
        """Returns the weights by our names, layers on axis 0 below `layers`."""
        if self.plain:
            return tensors.stack(self.plain)
        leaves = {}
        for name, tensor in self.scanned.items():
            match = _SCANNED.fullmatch(name)
            if match is None:
                leaves[name] = tensors.whole(tensor)
            else:
                stack, rest = match.groups()
                shape = _layer_shape(rest, tensor.shape)
                leaf = tensors.split_layers(tensor, shape)
                leaves[f"{stack}/{LAYERS}/{rest}"] = leaf
        return dict(sorted(leaves.items()))


def is_t5x(path: str | pathlib.Path) -> bool:
    """Returns whether a folder or URL looks like one checkpoint that T5X wrote."""
    names = _contents(path)
    if STATE not in names:
        return LEGACY_FILE in names
    with reading(path):
        facts = stores.read_bytes(stores.as_url(path), f"{STATE}/{stores.ITEM_FILE}")
    return facts is not None


def open_t5x(path: str | pathlib.Path) -> Checkpoint:
    """Returns a T5X checkpoint's tensors, not in memory yet.

    Args:
      path: A folder `checkpoint_<step>`, or its URL, such as `gs://bucket/...`.

    Raises:
      CheckpointError: The folder is not such a checkpoint, or is incomplete.
    """
    root = stores.as_url(path)
    names = _contents(path)
    if not is_t5x(path):
        raise _not_t5x(path, names)
    with reading(path):
        if LEGACY_FILE in names:
            target, step = _open_legacy(root)
        else:
            target, step = _open_orbax(root)
    is_scanned = any(_SCANNED.fullmatch(name) for name in target)
    return Checkpoint(
        plain={} if is_scanned else target,
        scanned=target if is_scanned else {},
        step=step,
    )


def load_t5x(path: str | pathlib.Path) -> tuple[dict[str, Any], int]:
    """Returns the weights of a T5X checkpoint, layers stacked, and its step.

    Args:
      path: A folder `checkpoint_<step>`, or its URL, such as `gs://bucket/...`.

    Returns:
      Float32 arrays under T5X's names, but with the layers of a stack on axis 0 below
      `<stack>/layers/...`; and the number of training steps.

    Raises:
      CheckpointError: The folder is not such a checkpoint, or is incomplete.
    """
    checkpoint = open_t5x(path)
    leaves = checkpoint.leaves()
    with reading(path):
        return tensors.read_all(leaves, np.float32), checkpoint.step


def check(checkpoint: Checkpoint, expected: Params, *, of: str) -> None:
    """Raises CheckpointError naming all tensors that a model lacks or has otherwise.

    Args:
      checkpoint: Opened.
      expected: Shapes of the model, layers stacked.
      of: What the checkpoint is, for the message.
    """
    if checkpoint.plain:
        shapes = tensors.plain_shapes(trees.flatten(expected))
        experts.check_same_tensors(checkpoint.plain, shapes, of=of)
    else:
        experts.check_same_tensors(checkpoint.leaves(), expected, of=of)


@contextlib.contextmanager
def reading(path: str | pathlib.Path) -> Iterator[None]:
    """Turns what reading raises into a CheckpointError that names the folder."""
    try:
        yield
    except (*experts.IO_ERRORS, msgpack.UnpackException) as error:
        raise errors.CheckpointError(
            found=f"{path} cannot be read: {errors.first_line(error)}",
            expected="a complete checkpoint of T5X",
            do="Copy the whole folder again, with all arrays it names",
        ) from error


def _contents(path: str | pathlib.Path) -> list[str]:
    """Returns the names right below a folder or URL; none if there is no folder."""
    if not paths.is_url(str(path)):
        folder = paths.absolute(path)
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    with reading(path):
        return stores.list_names(stores.as_url(path))


def _open_legacy(root: str) -> tuple[dict[str, Tensor], int]:
    content = stores.read_bytes(root, LEGACY_FILE) or b""
    optimizer = serialization.msgpack_restore(content)["optimizer"]
    opened = {
        name: _start_open(root, leaf)
        for name, leaf in _flatten(optimizer["target"]).items()
    }
    step = _finish_open(_start_open(root, optimizer["state"]["step"]))
    return {n: _finish_open(leaf) for n, leaf in opened.items()}, int(step.read())


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping) or "driver" in node:
        return {prefix.rstrip("/"): node}
    leaves = {}
    for key, child in node.items():
        leaves |= _flatten(child, f"{prefix}{key}/")
    return leaves


def _start_open(root: str, leaf: Any) -> Any:
    """Returns an array, or the future of one that lies beside the file.

    Only the last part of the path is used: it is where T5X puts the array, a copy
    may name the bucket it came from, and nothing outside of the folder is opened.
    """
    if not isinstance(leaf, Mapping):
        return np.asarray(leaf)
    name = pathlib.PurePosixPath(leaf["kvstore"]["path"]).name
    return stores.start_open(f"{root}{name}/")


def _finish_open(leaf: Any) -> Tensor:
    if isinstance(leaf, np.ndarray):
        return Tensor(leaf.shape, leaf.dtype, lambda: leaf)
    return stores.finish_open(leaf)


def _open_orbax(root: str) -> tuple[dict[str, Tensor], int]:
    def is_wanted(name: str) -> bool:
        return name.startswith("target/") or name == "state/step"

    item = stores.open_item(f"{root}{STATE}/", is_wanted)
    step = item.pop("state/step").read()
    return {n.removeprefix("target/"): tensor for n, tensor in item.items()}, int(step)


def _layer_shape(rest: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of one layer of the scanned network in the plain one.

    There heads and their width are two axes: [inputs, layers, heads, width] of query,
    key and value, [heads, layers, width, outputs] of the output projection.
    """
    one_layer = (shape[0], *shape[2:])
    if len(one_layer) < 3:
        return one_layer
    if rest.endswith("/out/kernel"):
        return (one_layer[0] * one_layer[1], *one_layer[2:])
    return (one_layer[0], one_layer[1] * one_layer[2])


def _not_t5x(path: str | pathlib.Path, names: list[str]) -> errors.CheckpointError:
    inside = [name for name in names if name.startswith("checkpoint_")]
    problem = f"{path} holds neither `{LEGACY_FILE}` nor `{STATE}/{stores.ITEM_FILE}`"
    return errors.CheckpointError(
        found=problem if names else f"no folder {path}",
        expected="a folder checkpoint_<step> that T5X wrote",
        do=f"Name one of those inside it: {', '.join(inside)}"
        if inside
        else "Correct the path",
    )
