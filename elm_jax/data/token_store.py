"""Tokenised examples of one split, read from a memory-mapped file."""

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash

ARRAYS_FILE = "arrays.bin"
_ALIGNMENT = 64  # Bytes; so a memory map of any dtype starts aligned.


class Example(NamedTuple):
    """One example; tokens end with the end token where the features say so.

    Attributes:
      inputs: int32 [length]; empty for plain text.
      targets: int32 [length].
      choices: int32 [length] each; empty where the task has none.
      label: Index of the correct choice, -1 where there are none.
      inputs_text: The prompt, uncut.
      targets_text: The target, uncut.
      choices_text: The answer choices.
      answer_choices: The template's own expression for its choices, or None.
      example_id: Place of the row in its source, stable over prompts.
      inputs_cut: Whether the prompt has more tokens than `inputs`.
    """

    inputs: np.ndarray
    targets: np.ndarray
    choices: tuple[np.ndarray, ...]
    label: int
    inputs_text: str
    targets_text: str
    choices_text: tuple[str, ...]
    answer_choices: str | None
    example_id: int
    inputs_cut: bool


class Ragged(NamedTuple):
    """Rows of different lengths, end to end.

    Attributes:
      values: [total]; row i is `values[offsets[i]:offsets[i + 1]]`.
      offsets: int64 [rows + 1], from 0.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any = np.int32) -> "Ragged":
        """Returns the ragged array of a sequence of sequences."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = itertools.chain.from_iterable(rows)
        return cls(np.fromiter(flat, dtype, int(offsets[-1])), offsets)

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> "Ragged":
        """Returns the UTF-8 bytes of texts as a ragged array of uint8."""
        rows = [text.encode() for text in texts]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(np.frombuffer(b"".join(rows), np.uint8), offsets)

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """Returns the rows of all parts in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(np.concatenate([part.values for part in parts]), offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Length of each row: int64 [rows]."""
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        """Returns row `index`, a view."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def text(self, index: int) -> str:
        """Returns row `index` as text."""
        return self.row(index).tobytes().decode()


@dataclasses.dataclass(frozen=True)
class Columns:
    """All examples of a split by column.

    Choices are ragged twice: `choices_of` gives for each example its range of rows
    in `choices` and `choices_text`. `inputs_cut` is bool [examples].
    """

    inputs: Ragged
    targets: Ragged
    choices: Ragged
    choices_of: np.ndarray
    labels: np.ndarray
    example_ids: np.ndarray
    inputs_text: Ragged
    targets_text: Ragged
    choices_text: Ragged
    inputs_cut: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the plain arrays by name; `from_arrays` is the inverse."""
        arrays: dict[str, np.ndarray] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Ragged):
                arrays[f"{field.name}.values"] = value.values
                arrays[f"{field.name}.offsets"] = value.offsets
            else:
                arrays[field.name] = value
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Columns":
        """Returns the columns that `arrays` was called for."""
        parts: dict[str, Any] = {}
        for name in (field.name for field in dataclasses.fields(cls)):
            if name in arrays:
                parts[name] = arrays[name]
            else:
                values, offsets = arrays[f"{name}.values"], arrays[f"{name}.offsets"]
                parts[name] = Ragged(values, offsets)
        return cls(**parts)


class TokenizedDataset(Sequence[Example]):
    """Random access to the tokenised examples of one task and split.

    Attributes:
      name: The task's name.
      split: The task's split name.
      columns: The examples by column, for code that reads many at once.
      manifest: What shaped the cache, and counts of what was dropped or cut.
    """

    def __init__(self, columns: Columns, manifest: Mapping[str, Any]) -> None:
        self.columns = columns
        self.manifest = manifest
        self.name: str = manifest["key"]["task"]
        self.split: str = manifest["key"]["split"]
        self._answer_choices: str | None = manifest["answer_choices"]

    @property
    def fingerprint(self) -> str:
        """Content hash of tokens and texts: 16 hex digits."""
        return self.manifest["fingerprint"]

    @property
    def has_choices(self) -> bool:
        """Whether examples can be ranked."""
        return self._answer_choices is not None

    def __len__(self) -> int:
        return len(self.columns.labels)

    def __getitem__(self, index: Any) -> Any:
        """Returns an `Example`, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        i = int(index) % len(self)
        c = self.columns
        choices = range(int(c.choices_of[i]), int(c.choices_of[i + 1]))
        return Example(
            inputs=c.inputs.row(i),
            targets=c.targets.row(i),
            choices=tuple(c.choices.row(j) for j in choices),
            label=int(c.labels[i]),
            inputs_text=c.inputs_text.text(i),
            targets_text=c.targets_text.text(i),
            choices_text=tuple(c.choices_text.text(j) for j in choices),
            answer_choices=self._answer_choices,
            example_id=int(c.example_ids[i]),
            inputs_cut=bool(c.inputs_cut[i]),
        )

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))


def of_answers(
    examples: Sequence[Example],
    *,
    inputs: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
    manifest: Mapping[str, Any],
) -> TokenizedDataset:
    """Returns rows in memory with one answer choice each, which is their target.

    Args:
      examples: Give texts of inputs and places in the source; answers have no text.
      inputs: Tokens of each row, int32 [length].
      answers: Tokens of each row's answer, int32 [length].
      manifest: As that of a cache.
    """
    count, targets = len(examples), Ragged.of(answers)
    no_texts = Ragged.of_texts([""] * count)
    columns = Columns(
        inputs=Ragged.of(inputs),
        targets=targets,
        choices=targets,
        choices_of=np.arange(count + 1),
        labels=np.zeros(count, np.int64),
        example_ids=np.array([x.example_id for x in examples], np.int64),
        inputs_text=Ragged.of_texts([x.inputs_text for x in examples]),
        targets_text=no_texts,
        choices_text=no_texts,
        inputs_cut=np.array([x.inputs_cut for x in examples], bool),
    )
    return TokenizedDataset(columns, manifest)


def write_arrays(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray | Sequence[np.ndarray]]
) -> dict[str, list[Any]]:
    """Writes arrays end to end; returns name to [dtype, shape, offset, digest].

    An array may be given in pieces along its first axis; it is written piece by piece.
    """
    index: dict[str, list[Any]] = {}
    with path.open("wb") as file:
        for name, array in arrays.items():
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            pieces = [array] if isinstance(array, np.ndarray) else array
            shape = [sum(map(len, pieces)), *pieces[0].shape[1:]]
            start, digest = file.tell(), xxhash.xxh3_128()
            for piece in pieces:
                content = _bytes_of(piece)
                file.write(content)
                digest.update(content)
            index[name] = [pieces[0].dtype.str, shape, start, digest.hexdigest()]
    return index


def map_arrays(
    path: pathlib.Path, index: Mapping[str, Sequence[Any]]
) -> dict[str, np.ndarray]:
    """Returns memory-mapped views of what `write_arrays` wrote.

    All bytes are read and compared with their digests, once a process as long as the
    file's time and size are the same.

    Raises:
      ValueError: The file is shorter than the index says, or was changed.
    """
    buffer = np.memmap(path, dtype=np.uint8, mode="r")
    arrays, parts = {}, []
    for name, (dtype, shape, offset, digest) in index.items():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if offset < 0 or min(shape) < 0 or offset + size > buffer.size:
            raise ValueError(f"{path.name} ends before {name}")
        part = buffer[offset : offset + size]
        arrays[name] = np.asarray(part).view(dtype).reshape(shape)
        parts.append((name, offset, size, digest))
    facts = path.stat()
    _check(path, (facts.st_ino, facts.st_mtime_ns, facts.st_size), tuple(parts))
    return arrays


@functools.lru_cache(4096)
def _check(
    path: pathlib.Path,
    state: tuple[int, ...],  # noqa: ARG001 - another state of the file is read anew
    parts: tuple[tuple[str, int, int, str], ...],
) -> None:
    """Raises ValueError unless parts of a file have their digests."""
    buffer = np.memmap(path, dtype=np.uint8, mode="r")
    for name, offset, size, digest in parts:
        content = _bytes_of(buffer[offset : offset + size])
        if xxhash.xxh3_128(content).hexdigest() != digest:
            raise ValueError(f"{path.name} has other {name} than were written")


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
