"""The keys of a library and their owners. An index can grow; its keys never change.

There are three files in the library's folder: `keys.npy` float32 [keys, width],
`owners.npy` int32 [keys], positions in the list of experts in `index.json`, which is
written last. Until then a reader sees the library as it was before. Rows of the arrays
beyond those that `index.json` counts are what a killed writer left; the next writer
overwrites them.

Everything is checked when it is read: `index.json` has a hash of itself and of each
expert's keys, and determines the owners.
"""

import collections
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict

import numpy as np

from elm_jax import errors, paths
from elm_jax.disk import files, json_files, seals
from elm_jax.library import key_files, lock, sampling, text_formats
from elm_jax.types import Embedder

FORMAT_VERSION = 1
RECORD = "index.json"  # written last
_MOST_RECORD_BYTES = 2**30  # a line lists the rows of one expert


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """Settings that all keys of an index, and all queries, have in common.

    Attributes:
      embedder: The embedder's name.
      text_format: One of `text_formats.FORMATS`.
      num_keys: Keys wanted per expert (S); an expert with fewer rows has fewer.
      seed: What the rows were drawn with.
    """

    embedder: str
    text_format: str = "choice_instance"
    num_keys: int = sampling.NUM_KEYS
    seed: int = 42

    def __post_init__(self) -> None:
        text_formats.check_format(self.text_format)


@dataclasses.dataclass(frozen=True)
class RowsUsed:
    """Rows of a task's split that serve as keys."""

    task: str
    split: str
    rows: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class IndexEntry:
    """An owner of keys: consecutive rows of the index are its keys.

    Attributes:
      name: The expert.
      num_keys: Its keys; they follow those of the experts before it.
      sources: The rows behind its keys, in the keys' order.
      texts_sha256: Hash of the texts that were embedded.
      keys_sha256: Hash of its keys; "" in an index of release 0.1 that has not grown
        since.
    """

    name: str
    num_keys: int
    sources: tuple[RowsUsed, ...]
    texts_sha256: str
    keys_sha256: str = ""


class _Record(TypedDict):
    """The content of `index.json`."""

    format_version: int
    settings: IndexSettings
    experts: tuple[IndexEntry, ...]


@dataclasses.dataclass(frozen=True)
class NewExpert:
    """An expert that will get keys: formatted texts, and the rows they come from."""

    name: str
    texts: Sequence[str]
    sources: tuple[RowsUsed, ...]


@dataclasses.dataclass(frozen=True)
class Index:
    """An index in memory.

    Attributes:
      settings: How its keys were made.
      experts: Owners of the keys, in the order added.
      keys: float32 [keys, width].
      owners: int32 [keys], positions in `experts`.
    """

    settings: IndexSettings
    experts: tuple[IndexEntry, ...]
    keys: np.ndarray
    owners: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """The experts that have keys, in the order added."""
        return tuple(expert.name for expert in self.experts)

    def check_has(self, names: Iterable[str]) -> None:
        """Raises LibraryError unless there are experts, and all of them have keys."""
        experts = sorted(set(names))
        unknown = sorted(set(experts) - set(self.names))
        if unknown or not experts:
            raise errors.LibraryError(
                found=f"experts without keys: {', '.join(unknown)}"
                if unknown
                else "no expert to choose from",
                expected="one or more experts that the index has keys of",
                do="Extend the index by them, or leave them out",
            )

    def rows_used(self, task: str, split: str) -> frozenset[int]:
        """Returns the rows of a split that serve as keys, and so not as queries."""
        return frozenset(
            row
            for expert in self.experts
            for source in expert.sources
            if (source.task, source.split) == (task, split)
            for row in source.rows
        )


def open_index(index_dir: str | pathlib.Path) -> Index:
    """Returns the index of a folder.

    Raises:
      LibraryError: There is no index, or its files are corrupt or do not fit together.
    """
    folder = pathlib.Path(index_dir)
    try:
        settings, experts = _read_record(folder)
        total = sum(expert.num_keys for expert in experts)
        keys = key_files.load(folder / "keys.npy")[:total]
        owners = key_files.load(folder / "owners.npy")[:total]
        _check_arrays(keys, owners, experts)
        return Index(settings, experts, keys, owners)
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise errors.LibraryError(
            found=f"index in {folder}: {type(error).__name__} {error}",
            expected="index.json, keys.npy and owners.npy of one index",
            do="Build the library first (elm_library); if it is damaged, delete"
            " the three files and build it again",
        ) from error


def extend(
    index_dir: str | pathlib.Path,
    new: Sequence[NewExpert],
    *,
    embedder: Embedder,
    settings: IndexSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Adds experts to the index of a folder, or starts it; returns the whole index.

    Existing keys keep every byte. The keys of an expert depend on its own texts only,
    not on other experts. The index is written whenever it has grown by an eighth, so
    that a killed run loses little. The same call continues from there, because experts
    that have keys of the same texts are skipped.

    Args:
      index_dir: The library's folder.
      new: Experts to have keys; may be empty if the index exists.
      embedder: Must have the name in `settings`.
      settings: Must equal those of the index, if it exists.
      progress: Called with keys done and keys in all.

    Raises:
      LibraryError: An expert is given twice, has no texts, or has keys of other
        texts; settings differ; keys are not finite.
    """
    folder = pathlib.Path(index_dir)
    with lock.hold(folder):
        index = open_made_by(folder, embedder=embedder, settings=settings)
        missing = _select_missing(index, new)
        total, done = sum(len(expert.texts) for expert in missing), 0
        num_written = 0 if index is None else len(index.keys)
        for expert in missing:
            index = _append(index, expert, embedder=embedder, settings=settings)
            done += len(expert.texts)
            if done == total or len(index.keys) * 8 >= num_written * 9:
                _write(folder, index)
                num_written = len(index.keys)
            if progress is not None:
                progress(done, total)
    return open_index(folder)


def open_made_by(
    index_dir: str | pathlib.Path, *, embedder: Embedder, settings: IndexSettings
) -> Index | None:
    """Returns the index of a folder, to which experts can be added; None without one.

    Args:
      index_dir: The library's folder.
      embedder: Must have the name in `settings`.
      settings: Must equal those of the index, if it exists.

    Raises:
      LibraryError: Settings differ.
    """
    folder = pathlib.Path(index_dir)
    index = open_index(folder) if (folder / RECORD).exists() else None
    own_settings = dataclasses.replace(settings, embedder=embedder.name)
    of_index = settings if index is None else index.settings
    if not own_settings == settings == of_index:
        raise errors.LibraryError(
            found=f"embedder {embedder.name} with {settings}",
            expected=f"{of_index}, as the keys were made",
            do="Use those settings, or build an index in another folder. Embedders"
            " had other names in release 0.1, which did not tell tokenizers apart, and"
            " those of bases in bfloat16 before 0.2: build its index anew",
        )
    return index


def _append(
    index: Index | None, new: NewExpert, *, embedder: Embedder, settings: IndexSettings
) -> Index:
    keys = np.asarray(embedder.embed(new.texts), np.float32)
    width = keys.shape[-1] if index is None else index.keys.shape[1]
    if keys.shape != (len(new.texts), width) or not np.all(np.isfinite(keys)):
        raise errors.LibraryError(
            found=f"keys {keys.shape} of expert {new.name!r},"
            f" {np.sum(~np.isfinite(keys))} numbers of them not finite",
            expected=f"[{len(new.texts)}, {width}] finite numbers",
            do=f"Check the embedder {embedder.name} and its weights",
        )
    expert = IndexEntry(
        new.name,
        len(keys),
        new.sources,
        key_files.hash_of_texts(new.texts),
        key_files.hash_of_keys(keys),
    )
    position = 0 if index is None else len(index.experts)
    owners = np.full(len(keys), position, np.int32)
    if index is None:
        return Index(settings, (expert,), keys, owners)
    return dataclasses.replace(
        index,
        experts=(*index.experts, expert),
        keys=np.concatenate([index.keys, keys]),
        owners=np.concatenate([index.owners, owners]),
    )


def _write(folder: pathlib.Path, index: Index) -> None:
    for name, array in (("keys", index.keys), ("owners", index.owners)):
        files.write_bytes(folder / f"{name}.npy", key_files.content_of(array))
    owned = zip(index.experts, _split(index.keys, index.experts), strict=True)
    # Keys of release 0.1 get their hash now; all others have it already.
    experts = [
        dataclasses.replace(expert, keys_sha256=key_files.hash_of_keys(keys))
        for expert, keys in owned
    ]
    record = {
        "format_version": FORMAT_VERSION,
        "settings": dataclasses.asdict(index.settings),
        "experts": [dataclasses.asdict(expert) for expert in experts],
    }
    files.write_text(folder / RECORD, json.dumps(seals.seal(record)) + "\n")


def _read_record(folder: pathlib.Path) -> tuple[IndexSettings, tuple[IndexEntry, ...]]:
    sealed = json_files.read_object(folder / RECORD, most_bytes=_MOST_RECORD_BYTES)
    record = {name: sealed[name] for name in sealed if name != seals.KEY}
    if record.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format version {record.get('format_version')}")
    experts = record.get("experts")
    is_old = isinstance(experts, list) and all(
        isinstance(expert, dict) and "keys_sha256" not in expert for expert in experts
    )
    if isinstance(experts, list) and is_old:
        record["experts"] = [{**expert, "keys_sha256": ""} for expert in experts]
    if problems := json_files.misfits(record, _Record):
        raise ValueError(f"{RECORD}: {'; '.join(problems)}")
    if seals.KEY not in sealed and not is_old:
        raise ValueError(f"{RECORD}: {seals.KEY} is missing")
    seals.open_sealed(sealed)
    if is_old:
        text = (
            f"note: the index in {folder} is of release 0.1, without hashes of its"
            " keys: they cannot be compared with what was written; the hashes are"
            " written when it next grows"
        )
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    index_experts = tuple(_read_expert(fields) for fields in record["experts"])
    return IndexSettings(**record["settings"]), index_experts


def _split(keys: np.ndarray, experts: Sequence[IndexEntry]) -> list[np.ndarray]:
    """Returns each expert's keys."""
    ends = np.cumsum([expert.num_keys for expert in experts])
    return np.split(keys, ends[:-1])


def _read_expert(fields: dict[str, Any]) -> IndexEntry:
    sources = tuple(
        RowsUsed(source["task"], source["split"], tuple(source["rows"]))
        for source in fields["sources"]
    )
    for name in (fields["name"], *(source.task for source in sources)):
        if not paths.is_name(name):
            raise ValueError(f"{name!r:.100} is not {paths.NAME_RULE}")
    return IndexEntry(**{**fields, "sources": sources})


def _check_arrays(
    keys: np.ndarray, owners: np.ndarray, experts: tuple[IndexEntry, ...]
) -> None:
    counts = [expert.num_keys for expert in experts]
    if keys.ndim != 2 or keys.dtype != np.float32 or len(keys) != sum(counts):
        raise ValueError(f"keys.npy has {keys.dtype} {keys.shape}, not {sum(counts)}")
    expected = np.repeat(np.arange(len(experts)), counts)
    if not np.array_equal(owners, expected):
        raise ValueError("owners.npy and index.json tell of other owners")
    pairs = zip(experts, _split(keys, experts), strict=True)
    for expert, keys_of_expert in pairs:
        if expert.keys_sha256 not in ("", key_files.hash_of_keys(keys_of_expert)):
            raise ValueError(f"keys.npy has other keys of {expert.name!r:.80}")
    if not np.all(np.isfinite(keys)):
        raise ValueError("keys.npy has numbers that are not finite")


def _select_missing(index: Index | None, new: Sequence[NewExpert]) -> list[NewExpert]:
    """Returns the experts without keys, after a check of all experts."""
    indexed = {} if index is None else {e.name: e for e in index.experts}
    counts = collections.Counter(expert.name for expert in new)
    problems = {
        "given twice": [name for name, count in counts.items() if count > 1],
        "without texts": [e.name for e in new if not e.texts],
        "with texts of no known row": [
            e.name for e in new if sum(len(s.rows) for s in e.sources) != len(e.texts)
        ],
        "with keys of other texts": [
            e.name
            for e in new
            if e.name in indexed
            and indexed[e.name].texts_sha256 != key_files.hash_of_texts(e.texts)
        ],
        # Even if the texts are equal: these rows are left out of the queries.
        "with keys of other rows": [
            e.name
            for e in new
            if e.name in indexed and indexed[e.name].sources != e.sources
        ],
    }
    problems = {problem: names for problem, names in problems.items() if names}
    if problems or not (indexed or new):
        raise errors.LibraryError(
            found=f"experts {problems}" if problems else "no expert at all",
            expected="experts with one row for each text, each once; keys that"
            " are there never change",
            do="Correct them, or give a new expert a new name",
        )
    return [expert for expert in new if expert.name not in indexed]
