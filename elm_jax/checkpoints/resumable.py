"""Writes an expert leaf by leaf, and goes on where a killed writer stopped.

Each finished leaf is in the folder to be, with its digest in a list beside the leaves.
Whoever goes on reads the leaves in this list again and compares them; if one is not as
listed, all are written anew.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import digests, experts, manifest, written_arrays
from elm_jax.checkpoints.manifest import Manifest
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.disk import files, folders, json_files, seals, unfinished

_LIST = "finished.json"
_LIST_SECS = 1.0  # at most so much work is lost, beside that on a leaf
# As Orbax writes of arrays of numpy; a shape or a place would be another kind's.
_AS_NUMPY = {"value_type": "np.ndarray", "skip_deserialize": False}

Told = dict[str, dict[str, Any]]
"""Facts, JSON values by name, each kind by its name in the data of a manifest."""


def save_expert(
    folder: str | pathlib.Path,
    leaves: Mapping[str, Leaf],
    info: Manifest,
    *,
    recipe: str,
    on_bytes: written_arrays.OnBytes,
    attached: Mapping[str, bytes],
    leaf_facts: Told | None = None,
) -> Manifest:
    """Writes what `experts.load_expert` reads; a reader sees all of it or nothing.

    Parameters, fingerprint and digests are the same as if `experts.save_expert` wrote
    the leaves from memory.

    Args:
      folder: Where it goes; parents are made.
      leaves: By name; each is written in its dtype.
      info: Its facts; the fingerprint and the digests of its parameters are added.
      recipe: All that decides the parameters: what a killed writer left of the same
        recipe is kept.
      on_bytes: Called with the bytes written so far.
      attached: Content of files that are saved beside the parameters, by name.
      leaf_facts: Facts, by name, that leaves add when they are read; they are kept with
        the finished leaves, and go into the manifest's `data`.

    Returns:
      The manifest.

    Raises:
      ExistsError: There is one already, perhaps since a moment ago.
      ConfigError: As the leaves' parts raise it.
      CheckpointError: A source is torn, the disk is full, the place cannot be written,
        or a number is not finite.
    """
    final = paths.absolute(folder)
    folders.check_is_new(final)
    leaf_facts = {} if leaf_facts is None else leaf_facts
    causes = (*experts.IO_ERRORS, errors.ConfigError)
    try:
        with unfinished.folder(
            final, recipe, errors.CheckpointError, causes
        ) as partial:
            try:
                whole = _write(partial, leaves, info, on_bytes, leaf_facts)
            except _OtherBytesError:
                (partial / _LIST).unlink()
                whole = _write(partial, leaves, info, on_bytes, leaf_facts)
            (partial / _LIST).unlink(missing_ok=True)
            experts.write_attached(partial, attached)
            manifest.write_manifest(partial, whole)
    except _SourceError as error:
        raise error.reason from error
    return whole


class _OtherBytesError(Exception):
    """The values of a finished leaf have another digest than the list has."""


class _SourceError(Exception):
    """A source cannot be read, for a reason that is not in the folder or the disk."""

    def __init__(self, reason: errors.ConfigError) -> None:
        super().__init__(f"{reason}")
        self.reason = reason


def _told_apart(leaf: Leaf) -> Leaf:
    """Returns a leaf whose errors of reading are not taken for errors of writing."""

    def blocks() -> Iterator[np.ndarray]:
        try:
            yield from leaf.blocks()
        except errors.ConfigError as error:
            raise _SourceError(error) from error

    return leaf._replace(blocks=blocks)


def _write(
    partial: pathlib.Path,
    leaves: Mapping[str, Leaf],
    info: Manifest,
    on_bytes: written_arrays.OnBytes,
    leaf_facts: Told,
) -> Manifest:
    finished, facts_before = _finished(partial / _LIST)
    for name, facts in facts_before.items():
        leaf_facts.setdefault(name, {}).update(facts)
    writer = written_arrays.ItemWriter(partial / experts.PARAMS, goes_on=True)
    fingerprint, num_bytes, listed_at = trees.Fingerprint(), 0, time.monotonic()
    written: dict[str, str] = {}
    for name, leaf in sorted(leaves.items()):
        digest = digests.Digest(leaf.shape, leaf.dtype)
        fingerprint.start(name, leaf.shape, leaf.dtype)

        def on_block(block: np.ndarray, digest: digests.Digest = digest) -> None:
            nonlocal num_bytes
            digest.add(block)
            fingerprint.add(block)
            num_bytes += block.nbytes
            on_bytes(num_bytes)

        if name in finished:
            for block in _read_finished(writer, name, leaf):
                on_block(block)
            if digest.text != finished[name]:
                raise _OtherBytesError
        else:
            source = _told_apart(leaf)
            writer.write(name, source, leaf.dtype, _AS_NUMPY, on_block)
        written[name] = digest.text
        if name not in finished and time.monotonic() - listed_at > _LIST_SECS:
            content = seals.seal({"leaves": written, "told": leaf_facts})
            files.write_text(partial / _LIST, json.dumps(content))
            listed_at = time.monotonic()
    writer.finish()
    return dataclasses.replace(
        info,
        data=info.data | {name: facts for name, facts in leaf_facts.items() if facts},
        params_fingerprint=fingerprint.text,
        digests=written,
    )


def _read_finished(
    writer: written_arrays.ItemWriter, name: str, leaf: Leaf
) -> Iterator[np.ndarray]:
    """Yields the parts of a finished leaf.

    Raises:
      _OtherBytesError: They are not there, or not of the leaf's shape and dtype.
    """
    try:
        array = writer.keep(name, _AS_NUMPY)
        if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            raise _OtherBytesError
        yield from array.blocks()
    except experts.IO_ERRORS as error:
        raise _OtherBytesError from error


def _finished(path: pathlib.Path) -> tuple[dict[str, str], Told]:
    """Returns the digests of finished leaves by name, and the facts that they added.

    Both are empty if no list can be read.
    """
    try:
        content = seals.open_sealed(json_files.read_object(path))
        leaves = {f"{name}": f"{text}" for name, text in content["leaves"].items()}
        leaf_facts = {f"{name}": dict(facts) for name, facts in content["told"].items()}
        return leaves, leaf_facts
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}, {}
