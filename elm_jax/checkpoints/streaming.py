"""Writes a base part by part, so that no more than a tensor of it is in memory."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import digests, experts, manifest, stores, written_arrays
from elm_jax.checkpoints.manifest import Manifest
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.disk import folders

_AS_NUMPY = {"value_type": "np.ndarray", "skip_deserialize": False}


def save_base(
    folder: str | pathlib.Path,
    leaves: Mapping[str, Leaf],
    make_manifest: Callable[[str], Manifest],
    *,
    dtype: np.dtype,
    on_bytes: written_arrays.OnBytes,
    attached: Mapping[str, bytes] = types.MappingProxyType({}),
) -> Manifest:
    """Writes what `experts.load_expert` reads; a reader sees all of it or nothing.

    Args:
      folder: Where it goes; parents are made.
      leaves: The leaves by name.
      make_manifest: Makes the manifest from the fingerprint, which is known last.
      dtype: Of all leaves on disk.
      on_bytes: Called with the bytes written so far.
      attached: Content of files that are saved beside the parameters, by name.

    Returns:
      The manifest.

    Raises:
      CheckpointError: There is one already, the source is torn, the disk is full, or
        the place cannot be written.
    """
    final = paths.absolute(folder)
    folders.check_is_new(final)
    fingerprint, done = trees.Fingerprint(), 0
    digest, leaf_digests = digests.Digest((), dtype), {}

    def on_block(block: np.ndarray) -> None:
        nonlocal done
        fingerprint.add(block)
        digest.add(block)
        done += block.nbytes
        on_bytes(done)

    with experts.new_folder(final) as partial:
        item = written_arrays.ItemWriter(partial / experts.PARAMS)
        for name, leaf in sorted(leaves.items()):
            fingerprint.start(name, leaf.shape, dtype)
            digest = digests.Digest(leaf.shape, dtype)
            item.write(name, leaf, dtype, _AS_NUMPY, on_block)
            leaf_digests[name] = digest.text
        item.finish()
        experts.write_attached(partial, attached)
        info = make_manifest(fingerprint.text)
        info = dataclasses.replace(
            info, params_fingerprint=fingerprint.text, digests=leaf_digests
        )
        manifest.write_manifest(partial, info)
    return info


def fingerprint(
    leaves: Mapping[str, Leaf], *, dtype: np.dtype, on_bytes: written_arrays.OnBytes
) -> str:
    """Returns the fingerprint that `save_base` would give, and writes nothing.

    Args:
      leaves: The leaves by name.
      dtype: Of all leaves.
      on_bytes: Called with the bytes read so far.
    """
    digest, done = trees.Fingerprint(), 0
    for name, leaf in sorted(leaves.items()):
        digest.start(name, leaf.shape, dtype)
        for block in leaf.blocks():
            part = np.asarray(block).astype(dtype, copy=False)
            digest.add(part)
            done += part.nbytes
            on_bytes(done)
    return digest.text


def open_expert(
    folder: str | pathlib.Path, *, block_bytes: int = stores.CHUNK_BYTES
) -> tuple[dict[str, Leaf], Manifest]:
    """Returns the leaves of an expert or base, not in memory yet, and its manifest.

    The leaves compare themselves with the manifest as they are read
    (`digests.checked`).

    Args:
      folder: Of the expert or base.
      block_bytes: Size of a part that is read at once; more where more is stored as
        one.

    Raises:
      CheckpointError: It is missing or torn, or has other tensors than were saved.
    """
    path = paths.absolute(folder)
    info = manifest.read_manifest(path)
    with _reading(path / experts.PARAMS):
        root = stores.as_url(path / experts.PARAMS)
        leaves = stores.open_leaves(root, block_bytes=block_bytes)

    def blocks_of(leaf: Leaf) -> Iterator[np.ndarray]:
        with _reading(path / experts.PARAMS):
            yield from leaf.blocks()

    readable = {
        name: leaf._replace(blocks=functools.partial(blocks_of, leaf))
        for name, leaf in leaves.items()
    }
    return digests.checked(readable, info, path), info


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    """Turns what fails into a CheckpointError that names the place."""
    try:
        yield
    except (*experts.IO_ERRORS, json.JSONDecodeError) as error:
        raise errors.CheckpointError(
            found=f"{path} cannot be read: {errors.first_line(error)}",
            expected="the tensors of a saved expert",
            do="Copy the whole folder again",
        ) from error
