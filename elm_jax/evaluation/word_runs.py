"""Arithmetic on hashes of words: runs of several words, and sets of their hashes.

All of it works on blocks of rows, so that memory does not grow with their number.
"""

import functools
from collections.abc import Iterator

import numpy as np

MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that every power has an inverse
_INVERSE = pow(MULTIPLIER, -1, 2**64)
_BLOCK_WORDS = 2**20
_MOST_FILTER = 2**27  # bytes by which most hashes are known not to be in a set
_FILTER_BYTES = 16  # for each hash of a set: one in 16 of others passes


class HashSet:
    """A set of hashes that quickly rules out most hashes that are not in it.

    Args:
      hashes: uint64 [hashes], in ascending order.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        self._hashes = hashes
        bits = max(10, (_FILTER_BYTES * len(hashes)).bit_length() - 1)
        bits = min(bits, _MOST_FILTER.bit_length() - 1)
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(2**bits, bool)
        self._filter[hashes >> self._shift] = True

    def are_in(self, hashes: np.ndarray) -> np.ndarray:
        """Returns which of some hashes are in the set: bool."""
        is_member = self._filter[(hashes >> self._shift).view(np.int64)]
        (maybe,) = np.nonzero(is_member)
        if len(maybe):
            candidates = hashes[maybe]
            places = np.searchsorted(self._hashes, candidates)
            places = np.minimum(places, len(self._hashes) - 1)
            is_member[maybe] = self._hashes[places] == candidates
        return is_member


class Runs:
    """The runs of words that lie within one row.

    The hash of words a, b, c is `a m^2 + b m + c` modulo 2^64. It is a difference of
    two sums from the first word on, so that all sizes cost the same.

    Args:
      words: Hashes of the words of all rows, end to end: uint64 [words].
      offsets: Row i has words `offsets[i]` to `offsets[i + 1]`, from 0 on: int64.
    """

    def __init__(self, words: np.ndarray, offsets: np.ndarray) -> None:
        self._offsets = offsets
        self._powers, inverses = _powers(1 << (len(words) + 1).bit_length())
        self._sums = np.zeros(len(words) + 1, np.uint64)
        np.cumsum(words * inverses[1 : len(words) + 1], out=self._sums[1:])

    def of(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the hash of each run of so many words, and where it begins."""
        hashes = self._all(size)
        is_within = np.ones(len(hashes) + size, bool)
        is_filled = self._offsets[1:] > self._offsets[:-1]
        firsts, ends = self._offsets[:-1][is_filled], self._offsets[1:][is_filled]
        for place in range(1, size):
            is_within[np.maximum(ends - place, firsts)] = False
        (begins,) = np.nonzero(is_within[: len(hashes)])
        return hashes[begins], begins

    def in_set(self, size: int, hash_set: HashSet) -> np.ndarray:
        """Returns hashes of runs of this many words that are in a set."""
        hashes = self._all(size)
        (begins,) = np.nonzero(hash_set.are_in(hashes))
        ends = self._offsets[np.searchsorted(self._offsets, begins, "right")]
        return hashes[begins[begins + size <= ends]]

    def _all(self, size: int) -> np.ndarray:
        """Returns hashes of all runs, also of those over the ends of rows."""
        number = max(0, len(self._sums) - size)
        last = slice(size, size + number)
        return (self._sums[last] - self._sums[:number]) * self._powers[last]


def blocks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields the first row of each block of rows, and the one after its last."""
    first, num_rows = 0, len(offsets) - 1
    while first < num_rows:
        end = np.searchsorted(offsets, offsets[first] + _BLOCK_WORDS, "right") - 1
        last = min(max(int(end), first + 1), first + _BLOCK_WORDS)
        yield first, last
        first = last


def ranges(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the ranges of numbers with these beginnings and lengths, end to end.

    >>> ranges(np.array([5, 9]), np.array([2, 3]))
    array([ 5,  6,  9, 10, 11])
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(begins - (ends - counts), counts)


@functools.lru_cache(2)
def _powers(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first powers of the multiplier and of its inverse, from 0 on."""
    powers = []
    for factor in (MULTIPLIER, _INVERSE):
        factors = np.full(number, factor, np.uint64)
        factors[0] = 1
        powers.append(np.multiply.accumulate(factors))
    return powers[0], powers[1]
