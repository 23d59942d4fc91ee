"""Saves and loads experts and bases: folders with a manifest and an Orbax item."""

import contextlib
import dataclasses
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import (
    digests,
    one_process,
    orbax_logs,
    stores,
    tensors,
    written_arrays,
)
from elm_jax.checkpoints import manifest as manifests
from elm_jax.checkpoints.manifest import Manifest
from elm_jax.disk import files, folders
from elm_jax.types import LAYERS, Params

PARAMS = "params"
# Layers of at least so many bytes are stored apart, and can be read without the rest.
LAYER_BYTES = 1 << 18
# What Orbax, TensorStore and the file system raise when reading or writing fails.
IO_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError)


def save_expert(
    folder: str | pathlib.Path,
    params: Params,
    manifest: Manifest,
    *,
    attached: Mapping[str, bytes] = types.MappingProxyType({}),
) -> None:
    """Writes an expert or base; a reader sees all of it or nothing.

    Args:
      folder: Where it goes; parents are made.
      params: Its tensors only: not those of the base, unless it is one.
      manifest: Its facts; the fingerprint and the digests of its parameters are added.
      attached: Content of files that go beside them, by name, such as a base's
        vocabulary.

    Raises:
      ExistsError: There is one already, perhaps since a moment ago.
      CheckpointError: The disk is full, the place cannot be written, a number is not
        finite, or a base does not have the fingerprint its manifest names.
    """
    final = paths.absolute(folder)
    host = jax.tree.map(np.asarray, dict(params))
    fingerprint = trees.fingerprint(host)
    _check_content(final, host, manifest, fingerprint)
    folders.check_is_new(final)
    with new_folder(final) as partial:
        with _writer(host) as writer:
            args = ocp.args.PyTreeSave(host, save_args=_save_args(host))
            writer.save(partial / PARAMS, args=args)
        write_attached(partial, attached)
        whole = dataclasses.replace(
            manifest, params_fingerprint=fingerprint, digests=digests.of_tree(host)
        )
        manifests.write_manifest(partial, whole)


def write_attached(folder: pathlib.Path, attached: Mapping[str, bytes]) -> None:
    """Writes files beside an expert's parameters, by name."""
    for name, content in attached.items():
        files.write_bytes(folder / name, content)


def load_expert(
    folder: str | pathlib.Path,
    *,
    base_fingerprint: str | None = None,
    expected: Params | None = None,
) -> tuple[dict[str, Any], Manifest]:
    """Returns the tensors and the manifest of an expert or base.

    Args:
      folder: What `save_expert` wrote.
      base_fingerprint: Of the base it is to join; None if it joins none now.
      expected: Shapes by name that the tensors must have, such as the trainable
        part of `param_shapes`; None takes any.

    Returns:
      Arrays of numpy with the dtypes they were saved in, and the manifest.

    Raises:
      CheckpointError: The expert is missing, torn, not of the expected shapes, or
        has other values than were saved; all missing, extra, misshapen and altered
        tensors are named at once.
      FingerprintError: It belongs to another base.
    """
    path = paths.absolute(folder)
    manifest = manifests.read_manifest(path)
    if base_fingerprint not in (None, manifest.base_fingerprint):
        raise errors.FingerprintError(
            found=f"expert {manifest.name!r} of base {manifest.base_name!r} "
            f"({manifest.base_fingerprint})",
            expected=f"an expert of the base with fingerprint {base_fingerprint}",
            do="Load the base that the expert names, or train the expert again",
        )
    try:
        with _checkpointer() as checkpointer:
            params = checkpointer.restore(path / PARAMS)
    except IO_ERRORS as error:
        raise errors.CheckpointError(
            found=f"{path / PARAMS} cannot be read: {error}",
            expected="the tensors of a saved expert",
            do="Copy the whole folder again, or train the expert again",
        ) from error
    if expected is not None:
        check_same_tensors(params, expected, of=f"expert {manifest.name!r} in {path}")
    digests.check(params, manifest, path)
    return params, manifest


def _save_args(params: Params) -> dict[str, Any]:
    """Returns how each tensor is stored: large layers apart, in parts of some MB."""
    args_by_name = {}
    for name, leaf in trees.flatten(params).items():
        sizes, num_bytes, axes = leaf.shape, leaf.nbytes, ()
        if f"/{LAYERS}/" in name and num_bytes // max(1, sizes[0]) >= LAYER_BYTES:
            sizes, num_bytes, axes = sizes[1:], num_bytes // sizes[0], (0,)
        # Orbax cuts the longest axis, into single rows if its length is a prime.
        longest = max(sizes, default=1)
        is_cut = written_arrays.piece(longest, num_bytes) < longest
        args_by_name[name] = ocp.SaveArgs(
            shard_axes=axes, chunk_byte_size=stores.CHUNK_BYTES if is_cut else None
        )
    return trees.unflatten(args_by_name)


def _checkpointer() -> ocp.Checkpointer:
    """Returns what reads by itself, whatever other processes do."""
    orbax_logs.silence()
    alone = one_process.options()
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _writer(params: Params) -> ocp.Checkpointer:
    """Returns a writer of parameters, which compresses them where that is worth it."""
    orbax_logs.silence()
    alone = one_process.options()
    dtypes = {np.dtype(leaf.dtype) for leaf in trees.flatten(params).values()}
    handler = ocp.PyTreeCheckpointHandler(
        multiprocessing_options=alone,
        use_compression=any(map(written_arrays.compressor_of, dtypes)),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def check_same_tensors(actual: Params, expected: Params, *, of: str) -> None:
    """Raises CheckpointError that names all tensors which differ in name or shape.

    Args:
      actual: Tree of arrays or shapes.
      expected: Tree of arrays or shapes, as they should be.
      of: What `actual` is, for the message.
    """
    difference = trees.diff(actual, expected)
    if difference:
        raise errors.CheckpointError(
            found=f"tensors of {of} do not fit: {difference}",
            expected=f"the model's {len(trees.flatten(expected))} tensors",
            do="Use the model and adapter that the checkpoint was written with",
        )


def _check_content(
    final: pathlib.Path, params: Params, manifest: Manifest, fingerprint: str
) -> None:
    if not trees.flatten(params):
        problem = f"no tensors for {final}"
    elif manifest.kind == "base" and fingerprint != manifest.base_fingerprint:
        problem = f"base {manifest.name!r} has fingerprint {fingerprint}"
    else:
        subject = f"{manifest.kind} {manifest.name!r}"
        tensors.check_finite(trees.flatten(params), of=subject)
        return
    raise errors.CheckpointError(
        found=problem,
        expected=f"tensors; for a base, those of {manifest.base_fingerprint}",
        do="Check the trainable pattern, and make the manifest from the tensors",
    )


def new_folder(
    final: pathlib.Path,
) -> contextlib.AbstractContextManager[pathlib.Path]:
    """Returns what `folders.new_folder` does, with a CheckpointError if it fails."""
    return folders.new_folder(
        final, errors.CheckpointError, (*IO_ERRORS, errors.ConfigError)
    )
