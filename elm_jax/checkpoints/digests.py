"""Content hashes of single tensors: recorded when saved, compared whenever read.

They are for damage and for tensors of another model, so they are fast: XXH3 of 128
bits takes a thirtieth of the time in which the tensors are read. Who an expert is
tells `trees.fingerprint`, by SHA-256.
"""

import concurrent.futures
import functools
import itertools
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xxhash

from elm_jax import errors, trees
from elm_jax.checkpoints.manifest import Manifest
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.types import Params

_is_comparing = True


def compare_tensors(is_comparing: bool) -> None:
    """Says whether this process compares the tensors that it loads."""
    global _is_comparing  # noqa: PLW0603 - one value for all readers
    _is_comparing = is_comparing


class Digest:
    """Computes the digest of a tensor that comes in parts along axis 0."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._hash = xxhash.xxh3_128(f"{tuple(shape)}\0{dtype.name}\0".encode())

    def add(self, array: np.ndarray) -> None:
        """Adds the next values."""
        self._hash.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    @property
    def text(self) -> str:
        """The digest of shape, dtype and all values added: 32 hex digits."""
        return self._hash.hexdigest()


def of_array(array: np.ndarray) -> str:
    """Returns the digest of a whole tensor."""
    digest = Digest(array.shape, array.dtype)
    digest.add(array)
    return digest.text


def of_tree(tree: Params) -> dict[str, str]:
    """Returns the digests of all leaves by name, made by several threads."""
    leaves = {name: np.asarray(leaf) for name, leaf in trees.flatten(tree).items()}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(leaves, pool.map(of_array, leaves.values()), strict=True))


def check(tree: Params, info: Manifest, folder: pathlib.Path) -> None:
    """Raises CheckpointError unless tensors have the digests of a manifest.

    Where it has no digests, as in release 0.1, the fingerprint of all tensors is
    compared; experts of 0.1 have neither, and are told of once.

    Args:
      tree: All tensors of the folder.
      info: The manifest that has the digests.
      folder: For the message.
    """
    if not _is_comparing:
        _tell_not_compared()
    elif info.digests:
        computed = of_tree(tree)
        _check_names(computed, info, folder)
        _refuse(
            [name for name in computed if computed[name] != info.digests[name]],
            info,
            folder,
        )
    elif recorded := recorded_fingerprint(info):
        if trees.fingerprint(tree) != recorded:
            _refuse([f"some of {len(trees.flatten(tree))} tensors"], info, folder)
    else:
        _tell_unchecked()


def checked(
    leaves: Mapping[str, Leaf], info: Manifest, folder: pathlib.Path
) -> dict[str, Leaf]:
    """Returns leaves which compare themselves as their parts are read.

    A leaf that is not as the manifest tells raises CheckpointError after its last part.
    Without digests the first part that is read of any leaf has all of them compared
    before, which reads them twice.

    Raises:
      CheckpointError: The names are not those of the manifest.
    """
    if not _is_comparing:
        _tell_not_compared()
        return dict(leaves)
    if info.digests:
        _check_names(leaves, info, folder)

    @functools.cache
    def check_all() -> None:
        _check_unread(leaves, info, folder)

    def blocks_of(name: str, leaf: Leaf) -> Iterator[np.ndarray]:
        if not info.digests:
            check_all()
            yield from leaf.blocks()
            return
        digest, blocks = Digest(leaf.shape, leaf.dtype), leaf.blocks()
        while held := [*itertools.islice(blocks, 1)]:
            digest.add(held[0])
            yield held.pop()  # so that it is gone when the reader has done with it
        if digest.text != info.digests[name]:
            _refuse([name], info, folder)

    return {
        name: leaf._replace(blocks=functools.partial(blocks_of, name, leaf))
        for name, leaf in leaves.items()
    }


def recorded_fingerprint(info: Manifest) -> str:
    """Returns the fingerprint that a manifest tells of all its parameters, or ""."""
    return info.base_fingerprint if info.kind == "base" else info.params_fingerprint


def _check_unread(
    leaves: Mapping[str, Leaf], info: Manifest, folder: pathlib.Path
) -> None:
    recorded = recorded_fingerprint(info)
    if not recorded:
        _tell_unchecked()
        return
    digest = trees.Fingerprint()
    for name, leaf in sorted(leaves.items()):
        digest.start(name, leaf.shape, leaf.dtype)
        for block in leaf.blocks():
            digest.add(block)
    if digest.text != recorded:
        _refuse([f"some of {len(leaves)} tensors"], info, folder)


def _check_names(
    by_name: Mapping[str, Any], info: Manifest, folder: pathlib.Path
) -> None:
    unmatched = sorted(by_name.keys() ^ info.digests.keys())
    _refuse([f"{name} (on one side only)" for name in unmatched], info, folder)


def _refuse(wrong: list[str], info: Manifest, folder: pathlib.Path) -> None:
    if not wrong:
        return
    raise errors.CheckpointError(
        found=f"{folder} holds other tensors than its manifest tells of"
        f" {info.kind} {info.name!r}: {', '.join(wrong)}",
        expected="the values with which it was saved: these are damaged, or of"
        " another model",
        do="Copy the whole folder again, or train or import it again",
    )


@functools.cache
def _tell_unchecked() -> None:
    """Says on standard error, once a process, that tensors cannot be compared."""
    text = (
        "note: experts that release 0.1 saved have no digests of their tensors, which"
        " cannot be compared with what was saved"
    )
    print(text, file=sys.stderr, flush=True)  # noqa: T201


@functools.cache
def _tell_not_compared() -> None:
    """Says on standard error, once a process, that tensors are believed."""
    text = (
        "note: tensors are not compared with their digests (compare_tensors = False);"
        " damaged ones, or those of another model, give wrong numbers"
    )
    print(text, file=sys.stderr, flush=True)  # noqa: T201
