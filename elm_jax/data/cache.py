"""Tokenised caches: built once, then opened by index from a memory-mapped file.

A cache is a folder `<cache_dir>/<task>/<split>-<key>` with `manifest.json` and one
file of arrays. The key is a hash of everything that shaped the content, so a cache
is never stale: whatever changes, another folder is built. Folders appear whole, and
every byte is compared with its digest when a process first opens them.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import errors, paths
from elm_jax.data import cache_build, rendering, tasks, token_store
from elm_jax.data import vocabulary as vocabularies
from elm_jax.disk import folders, json_files, seals

# Modules of this room that have no influence on what is in a cache; all others have.
_WITHOUT_SAY = frozenset(
    (
        *("batches", "cache", "packing", "prefetch", "promptsource", "shapes"),
        *("span_corruption", "vocabulary_training"),
    )
)

FORMAT_VERSION = 3


def open_cache(
    task_name: str,
    split: str,
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    data_options: tasks.DataOptions,
    progress: rendering.ProgressFn | None = None,
) -> token_store.TokenizedDataset:
    """Returns the tokenised examples of a task's split, building them if needed.

    TensorFlow is imported only to build a task that a user registered with SeqIO.

    Args:
      task_name: A registered task, not a mixture.
      split: One of the task's split names, such as `train`.
      vocabulary: Of inputs, targets and choices.
      features: Lengths to which tokens are cut; cut ones keep their end token.
      data_options: Folders of data, templates and caches.
      progress: Called with the number of rows done while building.

    Raises:
      ConfigError: No such task.
      DataError: Data is missing, does not fit or is empty, targets are too long for
        `features`, or the cache cannot be read or written.
      TemplateError: The template is missing or does not fit the rows.
    """
    build = planned(
        task_name,
        split,
        vocabulary=vocabulary,
        features=features,
        data_options=data_options,
    )
    if not build.is_built():
        folders.check_writable(pathlib.Path(data_options.cache_dir))
        cache_build.build_here(build, progress)
    return _read(build.folder, key=build.key)


def find(
    cache_dir: str | pathlib.Path,
    task_name: str,
    split: str,
    *,
    fingerprint: str,
    is_checked: bool = True,
) -> token_store.TokenizedDataset | None:
    """Returns the cache of a split that has some content, however it was made.

    Nothing is built, and neither sources nor templates are asked for.

    Args:
      cache_dir: Folder of all caches.
      task_name: Name of a task.
      split: One of its splits.
      fingerprint: Of tokens and texts, as result rows tell it.
      is_checked: Whether all bytes are compared with their digests. Who reads few rows
        of a large file may leave it to a hash of just these.

    Returns:
      None if there is no such cache; a folder whose manifest is damaged is none.

    Raises:
      DataError: Its arrays are damaged.
    """
    folder = pathlib.Path(cache_dir) / task_name
    if not folder.is_dir():
        return None
    for cache_folder in sorted(folder.iterdir()):
        if cache_folder.name.startswith(f"{split}-"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if _manifest(cache_folder)["fingerprint"] == fingerprint:
                    break
    else:
        return None
    return _read(cache_folder, is_checked=is_checked)


def planned(
    task_name: str,
    split: str,
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    data_options: tasks.DataOptions,
) -> cache_build.CacheBuild:
    """Returns the cache that `open_cache` would open, built or not.

    Raises:
      ConfigError: No such task, or the split's name cannot be a folder's.
      DataError: Data is missing, does not fit or is empty.
      TemplateError: The template is missing.
    """
    task = tasks.registry.task(task_name)
    for name in (task_name, split):
        is_short = len(name.encode()) <= paths.NAME_BYTES
        if not is_short or not re.fullmatch(r"[\w][\w.:\-\[\]%]*", name):
            raise errors.ConfigError(
                found=f"the name {name!r}",
                expected="a task and a split whose names can be folders, of"
                f" {paths.NAME_BYTES} bytes at most",
                do="Correct the name",
            )
    key = cache_key(
        task, split, vocabulary=vocabulary, features=features, data_options=data_options
    )
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = pathlib.Path(data_options.cache_dir) / task_name / f"{split}-{digest[:16]}"
    return cache_build.CacheBuild(
        task, split, folder, key, vocabulary, features, data_options
    )


def cache_key(
    task: tasks.AnyTask,
    split: str,
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    data_options: tasks.DataOptions,
) -> dict[str, Any]:
    """Returns everything that shapes a cache, by name, as JSON values.

    Folders' names are not in it: the same data elsewhere gives the same key.
    """
    key: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "code": _code_version(),
        "task": task.name,
        "split": split,
        "vocabulary": vocabulary.fingerprint,
        "inputs_length": features.inputs_length,
        "targets_length": features.targets_length,
        "inputs_eos": features.inputs_eos,
    }
    if isinstance(task, tasks.SeqioTask):
        # What a user's own task does is not in sight: by SeqIO's custom, a task that
        # changes gets a new name.
        return key
    source = rendering.served(task, split, data_options)
    key["source_split"] = dataclasses.asdict(source.part)
    key["source"] = source.fingerprint()
    key["served_by"] = source.name
    if isinstance(task, tasks.TextTask):
        return key | {"field": task.field}
    if source.is_prompted:
        return key | {"max_bad_share": task.max_bad_share}
    template = rendering.load_template(
        task, split, data_options, features.max_value_chars
    )
    return key | {"template": template.sha256, "max_bad_share": task.max_bad_share}


def _code_version() -> str:
    """Returns a hash of the modules whose text decides what a cache holds."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        if path.stem not in _WITHOUT_SAY:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _read(
    folder: pathlib.Path,
    *,
    key: Mapping[str, Any] | None = None,
    is_checked: bool = True,
) -> token_store.TokenizedDataset:
    """Returns the cache in a folder; if a key is given, the cache must have it."""
    try:
        manifest = _manifest(folder)
        if key is not None and manifest["key"] != json.loads(json.dumps(key)):
            raise ValueError("it was made of other rows or settings")
        mapped = token_store.map_arrays if is_checked else _map_unchecked
        arrays = mapped(folder / token_store.ARRAYS_FILE, manifest["arrays"])
        columns = token_store.Columns.from_arrays(arrays)
        return token_store.TokenizedDataset(columns, manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.DataError(
            found=f"the token cache {folder} is damaged: {error}",
            expected=f"{cache_build.MANIFEST_FILE} and {token_store.ARRAYS_FILE} "
            "as written",
            do=f"Delete {folder}; it is built again when next needed",
        ) from error


def _map_unchecked(
    path: pathlib.Path, index: Mapping[str, Sequence[Any]]
) -> dict[str, np.ndarray]:
    """Returns what `token_store.map_arrays` does, whatever the bytes are.

    Raises:
      ValueError: The file is shorter than the index says.
    """
    buffer, arrays = np.memmap(path, dtype=np.uint8, mode="r"), {}
    for name, (dtype, shape, offset, _) in index.items():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if offset < 0 or min(shape) < 0 or offset + size > buffer.size:
            raise ValueError(f"{path.name} ends before {name}")
        part = np.asarray(buffer[offset : offset + size])
        arrays[name] = part.view(dtype).reshape(shape)
    return arrays


def _manifest(folder: pathlib.Path) -> dict[str, Any]:
    sealed = json_files.read_object(folder / cache_build.MANIFEST_FILE)
    if seals.KEY not in sealed:
        raise KeyError(seals.KEY)
    return seals.open_sealed(sealed)
