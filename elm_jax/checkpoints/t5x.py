"""Reads weights that T5X wrote, in either of its formats.

Legacy folders hold a msgpack file `checkpoint`, whose leaves are arrays or name a
zarr array beside the file; newer ones an Orbax item `state`. Of both only the
weights and the step are read, never the optimiser.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from flax import serialization

from elm_jax import errors, trees
from elm_jax.checkpoints import layers


def is_t5x(path: pathlib.Path) -> bool:
    """Returns whether a folder looks like one checkpoint that T5X wrote."""
    return (path / "checkpoint").is_file() or (path / "state" / "_METADATA").is_file()


def load_t5x(path: str | pathlib.Path) -> tuple[dict[str, Any], int]:
    """Returns the weights of a T5X checkpoint, layers stacked, and its step.

    Args:
      path: A folder `checkpoint_<step>` of the network `t5x.examples.t5`.

    Returns:
      Float32 arrays under T5X's names, but `<stack>/layers_<n>/...` joined to
      `<stack>/layers/...`; and the number of training steps.

    Raises:
      CheckpointError: The folder is not such a checkpoint, or is incomplete.
    """
    folder = pathlib.Path(path).expanduser().absolute()
    if not is_t5x(folder):
        raise _not_t5x(folder)
    try:
        if (folder / "checkpoint").is_file():
            target, step = _read_legacy(folder)
        else:
            target, step = _read_orbax(folder)
    except (OSError, KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise errors.CheckpointError(
            errors.explain(
                found=f"{folder} cannot be read: {error}",
                expected="a complete checkpoint of T5X",
                do="Copy the whole folder again, with all arrays it names",
            )
        ) from error
    if "encoder" in target.get("encoder", {}):
        raise errors.CheckpointError(
            errors.explain(
                found=f"{folder} is of T5X's scanned network (encoder/encoder/...)",
                expected="t5x.examples.t5, with one relative-position table a stack",
                do="Use a checkpoint of t5x.examples.t5: the scanned network has a "
                "table per layer, so it is another model",
            )
        )
    weights = {n: np.asarray(w, np.float32) for n, w in trees.flatten(target).items()}
    return layers.stack_layers(trees.unflatten(weights)), step


def _read_legacy(folder: pathlib.Path) -> tuple[dict[str, Any], int]:
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    optimizer = content["optimizer"]
    # All reads are started before the first is waited for.
    target = _map_leaves(optimizer["target"], lambda leaf: _start_read(folder, leaf))
    weights = _map_leaves(target, _finish_read)
    return weights, int(_finish_read(_start_read(folder, optimizer["state"]["step"])))


def _map_leaves(node: Any, fn: Any) -> Any:
    if isinstance(node, Mapping) and "driver" not in node:
        return {key: _map_leaves(child, fn) for key, child in node.items()}
    return fn(node)


def _start_read(folder: pathlib.Path, leaf: Any) -> Any:
    """Returns an array, or the future of one that lies beside the file.

    Only the last part of the path is used: it is where T5X puts the array, a copy
    may name the bucket it came from, and nothing outside of the folder is opened.
    """
    if not isinstance(leaf, Mapping):
        return leaf
    name = pathlib.PurePosixPath(leaf["kvstore"]["path"]).name
    kvstore = {"driver": "file", "path": f"{folder / name}/"}
    spec = {"driver": "zarr", "kvstore": kvstore}
    return ts.open(spec, open=True, read=True).result().read()


def _finish_read(leaf: Any) -> Any:
    return leaf.result() if isinstance(leaf, ts.Future) else leaf


def _read_orbax(folder: pathlib.Path) -> tuple[dict[str, Any], int]:
    handler, item = ocp.PyTreeCheckpointHandler(), epath.Path(folder / "state")
    stored = handler.metadata(item).tree
    wanted = {"target": stored["target"], "state": {"step": stored["state"]["step"]}}
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    restored = handler.restore(
        item,
        args=ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=jax.tree.map(lambda _: as_numpy, wanted),
            partial_restore=True,
        ),
    )
    return restored["target"], int(restored["state"]["step"])


def _not_t5x(folder: pathlib.Path) -> errors.CheckpointError:
    if not folder.is_dir():
        found = f"no folder {folder}"
    else:
        found = f"{folder} holds neither `checkpoint` nor `state/_METADATA`"
    inside = sorted(path.name for path in folder.glob("checkpoint_*"))
    return errors.CheckpointError(
        errors.explain(
            found=found,
            expected="a folder checkpoint_<step> that T5X wrote",
            do=f"Name one of those inside it: {', '.join(inside)}"
            if inside
            else "Correct the path",
        )
    )
