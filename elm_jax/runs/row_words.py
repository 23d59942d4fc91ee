"""The words of a split's rows, by which rows are compared; kept beside token caches.

To cut the rows of a large task into words takes seconds of a core, so it is done once.
The words are kept in `<cache_dir>/<task>/.<fingerprint>.words-<version>`, named by the
content of the rows and by all that decides what is made of it. Such a folder appears
whole, whoever of several processes is the first, is compared with its digests when it
is read, and can be removed at any time.
"""

import contextlib
import json
import pathlib
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.data import cache, token_store
from elm_jax.disk import folders, json_files, seals
from elm_jax.evaluation import overlap

_INDEX_FILE = "index.json"
_VERSION = f"{overlap.VERSION}-{unicodedata.unidata_version}"


def find(
    cache_dir: str, task: str, split: str, *, fingerprint: str
) -> overlap.Texts | None:
    """Returns the words of a split with some fingerprint; None if it is not here.

    Args:
      cache_dir: Folder of all token caches.
      task: Name of a task.
      split: One of its splits.
      fingerprint: The hash of the split's tokens and texts.

    Raises:
      DataError: The token cache is damaged.
    """
    words = _read(_folder(cache_dir, task, fingerprint))
    if words is not None:
        return words
    dataset = cache.find(cache_dir, task, split, fingerprint=fingerprint)
    return None if dataset is None else of(dataset, cache_dir)


def of(dataset: token_store.TokenizedDataset, cache_dir: str) -> overlap.Texts:
    """Returns the words of a split's rows, and keeps them if the folder can be written.

    Args:
      dataset: The split.
      cache_dir: Where it is kept.
    """
    folder = _folder(cache_dir, dataset.name, dataset.fingerprint)
    cached = _read(folder)
    if cached is not None:
        return cached
    words = overlap.Texts.of(texts(dataset))
    # Without these words a run takes longer, and that is all.
    with contextlib.suppress(errors.ElmError, OSError):
        if folder.is_dir():  # damaged
            shutil.rmtree(folder)
        with folders.new_folder(folder) as new:
            index = token_store.write_arrays(
                new / token_store.ARRAYS_FILE, words.arrays()
            )
            content = seals.seal({"arrays": index})
            (new / _INDEX_FILE).write_text(json.dumps(content), encoding="utf-8")
    return words


def texts(
    dataset: token_store.TokenizedDataset, rows: Sequence[int] | None = None
) -> Iterator[str]:
    """Yields what a model is asked in each row; plain texts are targets alone.

    Args:
      dataset: A split.
      rows: Which ones, by their places; None for all.
    """
    columns = dataset.columns
    for row in range(len(dataset)) if rows is None else rows:
        yield columns.inputs_text.text(row) or columns.targets_text.text(row)


def _folder(cache_dir: str, task: str, fingerprint: str) -> pathlib.Path:
    return pathlib.Path(cache_dir) / task / f".{fingerprint}.words-{_VERSION}"


def _read(folder: pathlib.Path) -> overlap.Texts | None:
    """Returns the words kept in a folder; None if there are none, or damaged ones."""
    try:
        sealed: dict[str, Any] = json_files.read_object(folder / _INDEX_FILE)
        if seals.KEY not in sealed:
            return None
        index = seals.open_sealed(sealed)["arrays"]
        path = folder / token_store.ARRAYS_FILE
        return overlap.Texts.from_arrays(token_store.map_arrays(path, index))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
