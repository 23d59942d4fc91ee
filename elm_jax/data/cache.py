"""Tokenised caches: built once through SeqIO, then opened without TensorFlow.

A cache is a folder `<cache_dir>/<task>/<split>-<key>` with `manifest.json` and one
file of arrays. The key is a hash of everything that shaped the content, so a cache
is never stale: whatever changes, another folder is built. Folders appear whole.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from elm_jax import errors
from elm_jax.data import (
    folders,
    rendering,
    seqio_tasks,
    serving,
    sources,
    tasks,
    templates,
    token_store,
    tokenizing,
)
from elm_jax.data import (
    vocabulary as vocabularies,
)

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"


def open_cache(
    task_name: str,
    split: str,
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    places: tasks.Places,
    progress: rendering.ProgressFn | None = None,
) -> token_store.TokenizedDataset:
    """Returns the tokenised examples of a task's split, building them if needed.

    TensorFlow is imported only while building.

    Args:
      task_name: A registered task, not a mixture.
      split: One of the task's split names, such as `train`.
      vocabulary: Of inputs, targets and choices.
      features: Lengths to which tokens are cut; cut ones keep their end token.
      places: Folders of data, templates and caches.
      progress: Told the number of rows done while building.

    Raises:
      ConfigError: No such task.
      DataError: Data is missing, does not fit or is empty, targets are too long for
        `features`, or the cache cannot be read or written.
      TemplateError: The template is missing or does not fit the rows.
    """
    task = tasks.registry.task(task_name)
    key = cache_key(
        task, split, vocabulary=vocabulary, features=features, places=places
    )
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = pathlib.Path(places.cache_dir) / task_name / f"{split}-{digest[:16]}"
    if not folder.is_dir():
        folders.check_writable(pathlib.Path(places.cache_dir))
        built = tokenizing.tokenize_split(
            task,
            split,
            vocabulary=vocabulary,
            features=features,
            places=places,
            progress=progress,
        )
        _write(folder, key, built)
    return _read(folder)


def cache_key(
    task: tasks.AnyTask,
    split: str,
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    places: tasks.Places,
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
    source = rendering.served(task, split, places)
    key["source_split"] = dataclasses.asdict(source.part)
    key["source"] = source.fingerprint()
    key["served_by"] = source.name
    if isinstance(task, tasks.TextTask):
        return key | {"field": task.field}
    if source.is_prompted:
        return key | {"max_bad_share": task.max_bad_share}
    template = task.template.load(places.templates_dir)
    return key | {"template": template.sha256, "max_bad_share": task.max_bad_share}


def _code_version() -> str:
    """Returns a hash of the modules whose text decides what a cache holds."""
    modules = (
        *(rendering, seqio_tasks, serving, sources, templates, tokenizing),
        vocabularies,
    )
    digest = hashlib.sha256()
    for module in modules:
        digest.update(pathlib.Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]


def _write(
    folder: pathlib.Path, key: Mapping[str, Any], built: tokenizing.TokenizedSplit
) -> None:
    arrays = built.columns.arrays()
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    with folders.new_folder(folder) as temporary:
        index = token_store.write_arrays(temporary / token_store.ARRAYS_FILE, arrays)
        manifest = {
            "key": key,
            "fingerprint": digest.hexdigest()[:16],
            "answer_choices": built.answer_choices,
            **built.counts,
            "arrays": index,
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (temporary / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def _read(folder: pathlib.Path) -> token_store.TokenizedDataset:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text("utf-8"))
        arrays = token_store.map_arrays(
            folder / token_store.ARRAYS_FILE, manifest["arrays"]
        )
        columns = token_store.Columns.from_arrays(arrays)
        return token_store.TokenizedDataset(columns, manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.DataError(
            errors.explain(
                found=f"the token cache {folder} is damaged: {error}",
                expected=f"{MANIFEST_FILE} and {token_store.ARRAYS_FILE} as written",
                do=f"Delete {folder}; it is built again when next needed",
            )
        ) from error
