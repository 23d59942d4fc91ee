"""Parts of a token cache: any process turns some rows into one small folder.

The rows of a split are divided by their place, `PART_ROWS` to a part. A part has the
same bytes whichever process makes it. So a cache is the same whether it was made by one
process, by many, or by several with interruptions.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.data import (
    rendering,
    sources,
    tasks,
    templates,
    token_counts,
    token_store,
    tokenizing,
)
from elm_jax.data import vocabulary as vocabularies
from elm_jax.disk import folders, json_files, seals
from elm_jax.limits import limited

PART_ROWS = 2048
INDEX_FILE = "index.json"

Rows = Sequence[sources.Record]


@dataclasses.dataclass(frozen=True)
class PartJob:
    """What a process needs to make a part, besides the rows; can be pickled.

    Attributes:
      folder: The part's folder, to be written.
      start: Place of the first row in its source.
      split: The task's split; part of the seed of random choices.
      template: The template, or None for plain text and rows prompted already.
      field: The field of plain text; empty for prompts.
      vocabulary: Of all tokens.
      features: Lengths.
      limits: Of time and memory for each row, for a stranger's template.
    """

    folder: pathlib.Path
    start: int
    split: str
    template: Any
    field: str
    vocabulary: vocabularies.SentencePiece
    features: tasks.Features
    limits: limited.Limits = dataclasses.field(default_factory=limited.current)


class Part(NamedTuple):
    """A part that was read from disk.

    Attributes:
      columns: Its examples, memory-mapped.
      lengths: Tokens of each row before cutting, by column: int32.
      num_rows: Rows it was made from.
      dropped: How many were dropped, by reason.
      first_bad: Its first bad row of each reason, and what is wrong with it.
      indistinct: Rows whose choices cannot be told apart, by reason.
    """

    columns: token_store.Columns
    lengths: dict[str, np.ndarray]
    num_rows: int
    dropped: collections.Counter[str]
    first_bad: dict[str, str]
    indistinct: collections.Counter[str]


def build(job: PartJob, rows: Rows) -> int:
    """Renders and tokenises rows into the job's folder; returns how many there were.

    Raises:
      DataError: The folder cannot be written.
      TemplateError: The template does not compile, does what it may not or crosses a
        limit.
    """
    limited.use(job.limits)  # another process than the run's may do this
    rendered = rendering.render_rows(
        rows,
        split=job.split,
        start=job.start,
        template=job.template,
        field=job.field,
        limits=job.limits,
    )
    vocabulary = _shared(job.vocabulary.path, job.vocabulary.extra_ids)
    tokenized = tokenizing.tokenize(
        rendered, vocabulary, job.features, is_text=bool(job.field)
    )
    write(job.folder, rendered, tokenized)
    return len(rows)


def write(
    folder: pathlib.Path,
    rendered: rendering.RenderedSplit,
    tokenized: tokenizing.Tokenized,
) -> None:
    """Writes a part whole or not at all."""
    arrays = tokenized.columns.arrays()
    arrays |= {f"lengths.{name}": n for name, n in tokenized.lengths.items()}
    with (
        contextlib.suppress(errors.ExistsError),  # of another process, the same bytes
        folders.new_folder(folder) as temporary,
    ):
        index = token_store.write_arrays(temporary / token_store.ARRAYS_FILE, arrays)
        content = {
            "arrays": index,
            "num_rows": rendered.num_rows,
            "dropped": dict(sorted(rendered.dropped.items())),
            "first_bad": rendered.first_bad,
            "indistinct": dict(sorted(tokenized.indistinct.items())),
        }
        text = json.dumps(seals.seal(content), ensure_ascii=False)
        (temporary / INDEX_FILE).write_text(text, encoding="utf-8")


def read(folder: pathlib.Path) -> Part:
    """Returns a part; raises OSError, ValueError or KeyError for a damaged one."""
    content = seals.open_sealed(json_files.read_object(folder / INDEX_FILE))
    path = folder / token_store.ARRAYS_FILE
    arrays = token_store.map_arrays(path, content["arrays"])
    return Part(
        token_store.Columns.from_arrays(arrays),
        {name: arrays[f"lengths.{name}"] for name in token_counts.TOKENS},
        content["num_rows"],
        collections.Counter(content["dropped"]),
        content["first_bad"],
        collections.Counter(content["indistinct"]),
    )


def joined(parts: Sequence[Part]) -> dict[str, list[np.ndarray]]:
    """Returns the arrays of all parts' examples in order, each array in pieces.

    Only offsets are held in memory; the pieces of everything else stay mapped.
    """
    columns = [part.columns.arrays() for part in parts]
    arrays: dict[str, list[np.ndarray]] = {}
    for name in columns[0]:
        pieces = [part[name] for part in columns]
        is_offsets = name.endswith(".offsets") or name == "choices_of"
        arrays[name] = [_joined_offsets(pieces)] if is_offsets else pieces
    return arrays


def fingerprint(arrays: dict[str, list[np.ndarray]]) -> str:
    """Returns a hash of tokens and texts, however they are cut into pieces.

    Nor have columns that can be computed from these, so the hash of a dataset did not
    change when such a column was added.
    """
    digest = hashlib.sha256()
    for name, pieces in arrays.items():
        if name == "inputs_cut":
            continue
        digest.update(f"{name}{sum(map(len, pieces))}".encode())
        for piece in pieces:
            digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()[:16]


def deal(
    rows: Iterator[sources.Record],
) -> Iterator[tuple[int, list[sources.Record]]]:
    """Yields the place of the first row, and the rows, of each part."""
    start, some = 0, []
    for row in rows:
        some.append(row)
        if len(some) == PART_ROWS:
            yield start, some
            start, some = start + len(some), []
    if some:
        yield start, some


def sendable(template: Any) -> Any:
    """Returns a template without its compiled parts, which cannot be pickled."""
    is_plain = isinstance(template, templates.Template)
    return dataclasses.replace(template) if is_plain else template


def concatenated(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the concatenation of pieces, which may be memory-mapped."""
    return np.concatenate([np.asarray(piece) for piece in pieces])


def _joined_offsets(pieces: Sequence[np.ndarray]) -> np.ndarray:
    lengths = np.concatenate([np.diff(piece) for piece in pieces])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@functools.lru_cache(maxsize=2)
def _shared(path: str, extra_ids: int) -> vocabularies.SentencePiece:
    """Returns a vocabulary; each process loads it once for all its parts."""
    return vocabularies.SentencePiece(path, extra_ids)
