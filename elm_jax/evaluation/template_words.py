"""Which words of a task's rows are its template: those in runs that most rows have."""

import numpy as np
import xxhash

from elm_jax.evaluation import word_runs

# Rows of a task from which on its template can be told from their own words.
_LEAST_ROWS = 20
# Words of the runs by which a template is known.
_RUN = 3
_EDGE = _RUN - 1
_START, _END = (np.uint64(xxhash.xxh3_64_intdigest(t)) for t in (b"\0<", b"\0>"))
_MOST_BUCKETS = 2**22  # by which runs are counted


def find(vocabulary: np.ndarray, words: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Returns which words are in a run of three that more than half of the rows have.

    A row's start and end count as words, so that short beginnings are found, too.

    Args:
      vocabulary: Hashes of all different words: uint64.
      words: Those of all rows, end to end, as places in `vocabulary`.
      offsets: Row i has words `offsets[i]` to `offsets[i + 1]`: int64 [rows + 1].

    Returns:
      Bool [words]; all False for less than 20 rows.
    """
    is_template = np.zeros(len(words), bool)
    if len(offsets) - 1 < _LEAST_ROWS:
        return is_template
    rows = _Padded(vocabulary, words, offsets)
    common = word_runs.HashSet(rows.common())
    for first, last in rows.blocks:
        padded, ends, is_own = rows.block(first, last)
        hashes, begins = word_runs.Runs(padded, ends).of(_RUN)
        marked = np.zeros(len(padded), bool)
        for place in range(_RUN):
            marked[begins[common.are_in(hashes)] + place] = True
        is_template[offsets[first] : offsets[last]] = marked[is_own]
    return is_template


class _Padded:
    """Rows with their starts and ends as words, block by block.

    Attributes:
      blocks: First row of each block, and the one after its last.
    """

    def __init__(
        self, vocabulary: np.ndarray, words: np.ndarray, offsets: np.ndarray
    ) -> None:
        self._vocabulary, self._words, self._offsets = vocabulary, words, offsets
        self.blocks = [*word_runs.blocks(offsets)]

    def block(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns words of some rows, their offsets, and which are the rows' own."""
        offsets = self._offsets[first : last + 1]
        ends = offsets - offsets[0] + 2 * _EDGE * np.arange(len(offsets))
        padded = np.empty(ends[-1], np.uint64)
        is_own = np.ones(len(padded), bool)
        for place in range(_EDGE):
            for at, sign in ((ends[:-1] + place, _START), (ends[1:] - 1 - place, _END)):
                padded[at], is_own[at] = sign, False
        padded[is_own] = self._vocabulary[self._words[offsets[0] : offsets[-1]]]
        return padded, ends, is_own

    def common(self) -> np.ndarray:
        """Returns hashes of the runs that more than half of the rows have, ascending.

        A first look counts runs by a part of their hash. Only those whose part is there
        often enough are counted by row.
        """
        num_rows = len(self._offsets) - 1
        bits = min(_MOST_BUCKETS, max(1024, len(self._words))).bit_length() - 1
        shift = np.uint64(64 - bits)
        buckets = np.zeros(2**bits, np.int64)
        for first, last in self.blocks:
            hashes, _ = word_runs.Runs(*self.block(first, last)[:2]).of(_RUN)
            parts = (hashes >> shift).view(np.int64)
            buckets += np.bincount(parts, minlength=len(buckets))
        kinds, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for first, last in self.blocks:
            padded, ends, _ = self.block(first, last)
            hashes, begins = word_runs.Runs(padded, ends).of(_RUN)
            is_frequent = buckets[(hashes >> shift).view(np.int64)] > num_rows / 2
            hashes = hashes[is_frequent]
            owners = np.searchsorted(ends, begins[is_frequent], "right")
            in_a_row = hashes ^ (
                owners.astype(np.uint64) * np.uint64(word_runs.MULTIPLIER)
            )
            _, firsts = np.unique(in_a_row, return_index=True)
            own_kinds, own_counts = np.unique(hashes[firsts], return_counts=True)
            kinds.append(own_kinds)
            counts.append(own_counts)
        every, places = np.unique(np.concatenate(kinds), return_inverse=True)
        totals = np.bincount(places, np.concatenate(counts), minlength=len(every))
        return every[totals > num_rows / 2]
