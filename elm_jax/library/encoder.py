"""Makes an embedder of a tokenizer and an encoder; pads texts to a few lengths."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from elm_jax import errors

TokenizeFn = Callable[[Sequence[str]], Sequence[Sequence[int]]]
EncodeFn = Callable[[np.ndarray], Any]

# Rows per call. Not many, because the last call is filled up with copies.
BATCH_SIZE = 8


class EncoderEmbedder:
    """Embeds texts with given functions; a `types.Embedder`.

    The same texts give the same bits, whatever else was embedded before: an expert's
    keys do not depend on its neighbours in the library.

    Args:
      name: What the index records. Keys and queries must come from embedders of one
        name, so different weights or text lengths should give different names.
      tokenize_fn: `texts -> token ids`, 1 to `max_length` per text, end token
        included, none equal to `pad_id`.
      encode_fn: `int32 [batch, length] -> vectors [batch, width]`, pooled over the
        positions that are not `pad_id`. It is called with the lengths of
        `padded_lengths` only, so that it compiles a few times at most.
      max_length: The longest text in tokens.
      pad_id: Fills up shorter texts.
    """

    def __init__(
        self,
        *,
        name: str,
        tokenize_fn: TokenizeFn,
        encode_fn: EncodeFn,
        max_length: int,
        pad_id: int = 0,
    ) -> None:
        self._name = name
        self._tokenize_fn = tokenize_fn
        self._encode_fn = encode_fn
        self._lengths = padded_lengths(max_length)
        self._pad_id = pad_id

    @property
    def name(self) -> str:
        """The name by which an index knows this embedder."""
        return self._name

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns one vector per text, float32 [len(texts), width].

        Raises:
          LibraryError: No texts, token ids that are too many or none, or a vector with
            a number that is not finite, as weights far too large give.
        """
        rows = self._tokenize_fn(texts)
        self._check(texts, rows)
        # Longest first: texts of similar length share a call, which saves padding.
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
        parts = []
        for start in range(0, len(order), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            vectors = self._encode_fn(self._pad([rows[row] for row in chosen]))
            parts.append(np.asarray(vectors, np.float32)[: len(chosen)])
        embedded = np.concatenate(parts)
        if not np.isfinite(embedded).all():
            raise errors.LibraryError(
                found=f"{self._name}: vectors with numbers that are not finite",
                expected="finite ones, of finite weights of ordinary size",
                do="Download the model again",
            )
        result = np.empty_like(embedded)
        result[order] = embedded
        return result

    def _pad(self, rows: list[Sequence[int]]) -> np.ndarray:
        # Copies of a real row fill the batch: an empty one has no mean to pool.
        filled = rows + [rows[0]] * (BATCH_SIZE - len(rows))
        longest = max(map(len, filled))
        length = next(size for size in self._lengths if size >= longest)
        batch = np.full((BATCH_SIZE, length), self._pad_id, np.int32)
        for position, row in enumerate(filled):
            batch[position, : len(row)] = row
        return batch

    def _check(self, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
        sizes = {len(row) for row in rows}
        fit = all(0 < size <= self._lengths[-1] for size in sizes)
        if rows and len(rows) == len(texts) and fit:
            return
        raise errors.LibraryError(
            found=f"{len(texts)} texts with {sorted(sizes)} tokens",
            expected=f"one or more texts of 1 to {self._lengths[-1]} tokens",
            do="Give texts; let the tokenizer truncate and add an end token",
        )


def padded_lengths(max_length: int) -> tuple[int, ...]:
    """Returns the lengths to which texts are padded: powers of two and 1.5 times them.

    >>> padded_lengths(100)
    (16, 24, 32, 48, 64, 96, 100)
    """
    steps = [size for n in range(4, 31) for size in (2**n, 3 * 2 ** (n - 1))]
    return (*(size for size in steps if size < max_length), max_length)
