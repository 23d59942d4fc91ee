"""Which rows are, or are nearly, among the rows that a model was trained on.

Texts are compared as in the paper of GPT-3 (appendix C), word by word:

- what most rows of a task share is its template, and no row's own text;
- of 13 or more own words, a run of 13 that a training row has, too, is an overlap;
- of 8 to 12, all of them in one run in a training row are one;
- of any number, an equal text is one, template included.

It takes few lines, so no library is used: those for MinHash estimate how alike two
whole texts are, and miss a passage that stands in a longer prompt. Texts are cut into
words once, as numbers that can be kept (`Texts.arrays`). Everything else is arithmetic
on blocks of these, so that memory does not grow with the number of rows.
"""

import array
import dataclasses
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import xxhash

from elm_jax.evaluation import template_words, word_runs

RUN_WORDS = 13
"""Words of a run, as GPT-3's."""
LEAST_WORDS = 8
"""Own words below which a run says nothing, as GPT-3's."""
VERSION = 1
"""Of what `Texts` has of a text: another one if that changes."""
_EMPTY = 0
_WORD = re.compile(r"\w+")


class _Places(dict[str, int]):
    """Numbers words in the order in which they are first asked for."""

    def __missing__(self, word: str) -> int:
        place = self[word] = len(self)
        return place


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts of a task's rows as hashes of words.

    Attributes:
      whole: Of each row's whole text: uint64 [rows].
      vocabulary: Of each word of the task: uint64 [different words].
      words: The rows' own words, end to end, as places in `vocabulary`: uint16 or
        uint32 [words].
      offsets: Row i has words `offsets[i]` to `offsets[i + 1]`: int64 [rows + 1].
    """

    whole: np.ndarray
    vocabulary: np.ndarray
    words: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Returns the texts of all rows of one task, in their order."""
        places = _Places()
        wholes, flat, ends = array.array("Q"), array.array("I"), array.array("q", [0])
        for text in texts:
            row_words = normalized(text)
            flat.extend(map(places.__getitem__, row_words))
            whole = xxhash.xxh3_64_intdigest(" ".join(row_words).encode(), seed=1)
            wholes.append(whole if row_words else _EMPTY)
            ends.append(len(flat))
        hashes = (xxhash.xxh3_64_intdigest(word.encode()) for word in places)
        vocabulary = np.fromiter(hashes, np.uint64, len(places))
        kind = np.uint16 if len(places) <= 2**16 else np.uint32
        words = np.frombuffer(flat, np.uint32).astype(kind)
        del flat
        offsets = np.array(ends, np.int64)
        is_own = ~template_words.find(vocabulary, words, offsets)
        counts = np.concatenate([[0], np.cumsum(is_own)])
        whole = np.array(wholes, np.uint64)
        return cls(whole, vocabulary, words[is_own], counts[offsets])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Texts":
        """Returns the texts that `arrays` was called for.

        Raises:
          ValueError: They do not fit together.
          KeyError: One is missing.
        """
        texts = cls(
            **{field.name: arrays[field.name] for field in dataclasses.fields(cls)}
        )
        ends = texts.offsets
        kinds = [
            values.dtype.kind + f"{values.ndim}" for values in texts.arrays().values()
        ]
        fits = kinds == ["u1", "u1", "u1", "i1"] and len(ends) > 0
        fits = fits and len(ends) == len(texts.whole) + 1 and ends[0] == 0
        fits = fits and ends[-1] == len(texts.words) and (np.diff(ends) >= 0).all()
        if not fits or texts.words.max(initial=0) >= max(1, len(texts.vocabulary)):
            raise ValueError("words that do not fit the rows")
        return texts

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all of it by name; `from_arrays` is the inverse."""
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }

    def __len__(self) -> int:
        return len(self.whole)

    def rows(self, places: Sequence[int]) -> "Texts":
        """Returns some of the rows, without the template that all of them show."""
        parts = [self.words[self.offsets[i] : self.offsets[i + 1]] for i in places]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        words = np.concatenate([self.words[:0], *parts])
        return Texts(self.whole[list(places)], self.vocabulary, words, offsets)

    def blocks(self) -> Iterator[tuple[word_runs.Runs, np.ndarray]]:
        """Yields the runs of own words of some rows, and where each row begins."""
        for first, last in word_runs.blocks(self.offsets):
            ends = self.offsets[first : last + 1]
            words = self.vocabulary[self.words[ends[0] : ends[-1]]]
            yield word_runs.Runs(words, ends - ends[0]), ends - ends[0]

    def sought(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Returns hashes by which rows are found elsewhere, and the row of each.

        By the number of words of which they are hashes; 0 stands for whole texts.
        """
        (filled,) = np.nonzero(self.whole != _EMPTY)  # empty texts tell nothing
        parts = {size: [] for size in self.sizes}
        first_row = 0
        for runs, ends in self.blocks():
            lengths = np.diff(ends)
            for size, pairs in parts.items():
                hashes, begins = runs.of(size)
                rows = np.searchsorted(ends, begins, "right") - 1
                is_asked = (lengths[rows] == size) | (size == RUN_WORDS)
                pairs.append((hashes[is_asked], rows[is_asked] + first_row))
            first_row += len(lengths)
        by_size = {size: _joined(pairs) for size, pairs in parts.items()}
        return {0: (self.whole[filled], filled), **by_size}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths of the runs by which rows are found, in words."""
        lengths = np.minimum(np.diff(self.offsets), RUN_WORDS)
        return tuple(int(n) for n in np.unique(lengths) if n >= LEAST_WORDS)


class Search:
    """Looks for the rows of several tasks in training rows, all at once."""

    def __init__(self, sought: Sequence[Texts]) -> None:
        """Takes the rows that are looked for: those to be scored."""
        parts = [texts.sought() for texts in sought]
        sizes = sorted({size for by_size in parts for size in by_size})
        self._by_size = {
            size: _Sought([by_size.get(size, _NOTHING) for by_size in parts])
            for size in sizes
        }
        self._num_tasks = len(parts)

    def rows_in(self, training: Texts) -> list[np.ndarray]:
        """Returns for each of the tasks which rows overlap with training rows.

        Args:
          training: All rows of one training task.

        Returns:
          Places of rows, ascending, each once: int64, an array for each task.
        """
        overlapping = []
        for size, hashes in self._by_size.items():
            hits = [training.whole[:0]]
            if size:
                hits += [runs.in_set(size, hashes.set) for runs, _ in training.blocks()]
            else:
                hits.append(training.whole[hashes.set.are_in(training.whole)])
            overlapping.append(hashes.owners(np.unique(np.concatenate(hits))))
        tasks, rows = _joined(overlapping)
        return [np.unique(rows[tasks == task]) for task in range(self._num_tasks)]


class _Sought:
    """Hashes of several tasks' rows.

    Attributes:
      set: The hashes.
    """

    def __init__(self, tasks: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        hashes, rows = _joined(tasks)
        order = np.argsort(hashes, kind="stable")
        counts = [len(task_hashes) for task_hashes, _ in tasks]
        self._hashes, self._rows = hashes[order], rows[order]
        self._tasks = np.repeat(np.arange(len(tasks), dtype=np.int32), counts)[order]
        self.set = word_runs.HashSet(self._hashes)

    def owners(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tasks and rows that have some of the hashes."""
        first = np.searchsorted(self._hashes, hashes, "left")
        last = np.searchsorted(self._hashes, hashes, "right")
        places = word_runs.ranges(first, last - first)
        return self._tasks[places], self._rows[places]


_NOTHING = (np.zeros(0, np.uint64), np.zeros(0, np.int64))


def _joined(
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs of arrays, each end to end."""
    first, second = zip(*parts, strict=True) if parts else ([], [])
    return (
        np.concatenate([*first]) if first else _NOTHING[0],
        np.concatenate([*second]) if second else _NOTHING[1],
    )


def normalized(text: str) -> list[str]:
    """Returns the words of a text, whatever their case, signs and form in Unicode.

    >>> normalized("The CAT -- it's ﬁne!")
    ['the', 'cat', 'it', 's', 'fine']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def share(rows: Collection[int], found_rows: Iterable[np.ndarray]) -> float:
    """Returns how many of some rows are among those found, in percent.

    >>> share([1, 2, 5, 6], [np.array([2, 3]), np.array([2, 5])])
    50.0
    """
    all_found = np.concatenate([np.zeros(0, np.int64), *found_rows])
    return 100.0 * float(np.isin(np.array(rows), all_found).mean())
