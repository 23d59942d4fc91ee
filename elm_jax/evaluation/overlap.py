"""Which rows are, or are nearly, among the rows that a model was trained on.

Texts are compared as in the paper of GPT-3 (appendix C), word by word:

- what most rows of a task share is its template, and no row's own text;
- of 13 or more own words, a run of 13 that a training row has, too, is an overlap;
- of 8 to 12, all of them in one run in a training row are one;
- of any number, an equal text is one, template included.

It takes few lines, so no library is used: those for MinHash estimate how alike two
whole texts are, and miss a passage that stands in a longer prompt.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import xxhash

RUN_WORDS = 13
"""Words of a run, as GPT-3's."""
LEAST_WORDS = 8
"""Own words below which a run says nothing, as GPT-3's."""
# Rows of a task from which on its template can be told from their own words.
_LEAST_ROWS = 20
# Words of the runs by which a template is known.
_TEMPLATE_WORDS = 3
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that every power has an inverse
_EMPTY = 0
_START, _END = (np.uint64(xxhash.xxh3_64_intdigest(t)) for t in (b"\0<", b"\0>"))


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts of a task's rows as hashes of words.

    Attributes:
      whole: Of each row's whole text: uint64 [rows].
      words: The rows' own words, end to end: uint64 [words].
      offsets: Row i has words `offsets[i]` to `offsets[i + 1]`: int64 [rows + 1].
    """

    whole: np.ndarray
    words: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Returns the texts of all rows of one task, in their order."""
        known: dict[str, int] = {}
        wholes, hashes, lengths = [], [], []
        for text in texts:
            found = normalized(text)
            for word in found:
                if word not in known:
                    known[word] = xxhash.xxh3_64_intdigest(word.encode())
            whole = xxhash.xxh3_64_intdigest(" ".join(found).encode(), seed=1)
            wholes.append(whole if found else _EMPTY)
            hashes.append(np.array([known[word] for word in found], np.uint64))
            lengths.append(len(found))
        own = _without_template(hashes)
        counts = np.fromiter(map(len, own), np.int64, len(own))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        flat = np.concatenate(own) if own else np.zeros(0, np.uint64)
        return cls(np.array(wholes, np.uint64), flat, offsets)

    def __len__(self) -> int:
        return len(self.whole)

    def runs(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the hashes of all runs of `size` own words, and the row of each."""
        return _runs(self.words, self.offsets, size)

    def sought(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns hashes by which rows are found elsewhere, and the row of each."""
        lengths = np.diff(self.offsets)
        (filled,) = np.nonzero(self.whole != _EMPTY)  # empty texts tell nothing
        hashes, rows = [self.whole[filled]], [filled]
        for size in self.sizes:
            found, owners = self.runs(size)
            if size < RUN_WORDS:
                is_all = lengths[owners] == size
                found, owners = found[is_all], owners[is_all]
            hashes.append(found)
            rows.append(owners)
        return np.concatenate(hashes), np.concatenate(rows)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths of the runs by which rows are found, in words."""
        lengths = np.minimum(np.diff(self.offsets), RUN_WORDS)
        return tuple(int(n) for n in np.unique(lengths) if n >= LEAST_WORDS)


class Search:
    """Looks for the rows of several tasks in training rows, all at once."""

    def __init__(self, sought: Sequence[Texts]) -> None:
        """Takes the rows that are looked for: those to be scored."""
        self._sought = [one.sought() for one in sought]
        found = [np.zeros(0, np.uint64), *(hashes for hashes, _ in self._sought)]
        self._hashes = np.unique(np.concatenate(found))
        self._sizes = sorted({size for one in sought for size in one.sizes})

    def rows_in(self, training: Texts) -> list[np.ndarray]:
        """Returns for each of the tasks which rows overlap with training rows.

        Args:
          training: All rows of one training task.

        Returns:
          Places of rows, ascending, each once: int64, an array for each task.
        """
        there = [training.whole, *(training.runs(size)[0] for size in self._sizes)]
        hits = np.concatenate([self._known(hashes) for hashes in there])
        if not len(hits):
            return [np.zeros(0, np.int64) for _ in self._sought]
        return [np.unique(rows[np.isin(own, hits)]) for own, rows in self._sought]

    def _known(self, hashes: np.ndarray) -> np.ndarray:
        """Returns those hashes that are looked for."""
        if not len(self._hashes):
            return hashes[:0]
        places = np.searchsorted(self._hashes, hashes)
        places = np.minimum(places, len(self._hashes) - 1)
        return hashes[self._hashes[places] == hashes]


def normalized(text: str) -> list[str]:
    """Returns the words of a text, whatever their case, signs and form in Unicode.

    >>> normalized("The CAT -- it's ﬁne!")
    ['the', 'cat', 'it', 's', 'fine']
    """
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def share(rows: Collection[int], found: Iterable[np.ndarray]) -> float:
    """Returns how many of some rows are among those found, in percent.

    >>> share([1, 2, 5, 6], [np.array([2, 3]), np.array([2, 5])])
    50.0
    """
    every = {int(row) for rows_found in found for row in rows_found}
    return 100.0 * len(every.intersection(rows)) / len(rows)


def _without_template(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns each row without the words in runs that most rows have.

    A row's start and end count as words, so that short beginnings are found, too.
    """
    if len(rows) < _LEAST_ROWS:
        return list(rows)
    edge = _TEMPLATE_WORDS - 1
    start, end = np.full(edge, _START), np.full(edge, _END)
    padded = [np.concatenate([start, row, end]) for row in rows]
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    words = np.concatenate(padded)
    hashes, owners = _runs(words, offsets, _TEMPLATE_WORDS)
    in_a_row = hashes ^ (owners.astype(np.uint64) * np.uint64(_MULTIPLIER))
    _, firsts = np.unique(in_a_row, return_index=True)
    kinds, counts = np.unique(hashes[firsts], return_counts=True)
    is_common = np.isin(hashes, kinds[counts > len(rows) / 2])
    is_template = np.zeros(len(words), bool)
    begins = _begins(offsets, _TEMPLATE_WORDS)[is_common]
    for place in range(_TEMPLATE_WORDS):
        is_template[begins + place] = True
    return [
        words[first + edge : last - edge][~is_template[first + edge : last - edge]]
        for first, last in zip(offsets[:-1], offsets[1:], strict=True)
    ]


def _begins(offsets: np.ndarray, size: int) -> np.ndarray:
    """Returns where runs of `size` words begin that lie within one row."""
    counts = np.maximum(np.diff(offsets) - size + 1, 0)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    within = np.arange(total) - np.repeat(ends - counts, counts)
    return np.repeat(offsets[:-1], counts) + within


def _runs(
    words: np.ndarray, offsets: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hashes of all runs of `size` words within rows, and their rows."""
    begins = _begins(offsets, size)
    hashes = np.zeros(len(begins), np.uint64)
    for place in range(size):
        hashes = hashes * np.uint64(_MULTIPLIER) + words[begins + place]
    counts = np.maximum(np.diff(offsets) - size + 1, 0)
    return hashes, np.repeat(np.arange(len(counts)), counts)
