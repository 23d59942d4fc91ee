"""T5's span corruption of plain text, in numpy, a function of `(seed, step)`.

Reference: Raffel et al. 2020 (arXiv 1910.10683), section 3.1.4;
`t5.data.preprocessors.span_corruption` for the lengths.
"""

import functools
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from elm_jax import errors
from elm_jax.data import batches as batches_lib
from elm_jax.data import shapes as shapes_lib
from elm_jax.data import tasks, token_store, vocabulary
from elm_jax.types import EOS_ID, Batch

# Streams beside those of `batches`.
_DOCUMENTS, _CHUNKS, _NOISE, _ROWS = 20, 21, 22, 23
_NOISE_DENSITY, _MEAN_SPAN_LENGTH = 0.15, 3.0  # T5's


class SpanCorruptionBatches:
    """Batches for span corruption: the model predicts spans missing from running text.

    Each epoch shuffles the documents, joins them, and cuts the text into chunks that
    fill a row exactly once corrupted: there is no padding. The rest at the end of an
    epoch (less than one chunk) is not used in that epoch.

    Args:
      datasets: Tokenised plain text tasks.
      batch_size: Rows per batch, over all processes.
      features: Lengths of inputs and targets; chunks are as long as both allow.
      vocabulary: Of the datasets; gives the sentinels.
      seed: Decides documents' order and spans; 0 or more.
      noise_density: Share of tokens to drop, in (0, 1).
      mean_span_length: Mean length of a dropped span in tokens, at least 1.
      batch_part: `(index, count)`: which equal part of each batch's rows to make.

    Raises:
      ConfigError: Too few sentinels for a chunk, or a share or length out of range.
      DataError: Less text than one chunk.
    """

    def __init__(
        self,
        datasets: Sequence[token_store.TokenizedDataset],
        *,
        batch_size: int,
        features: tasks.Features,
        vocabulary: vocabulary.SentencePiece,
        seed: int,
        noise_density: float = _NOISE_DENSITY,
        mean_span_length: float = _MEAN_SPAN_LENGTH,
        batch_part: tuple[int, int] = (0, 1),
    ) -> None:
        batches_lib.check_sizes(batch_size, seed=seed, batch_part=batch_part)
        self._batch_size, self._seed, self._batch_part = batch_size, seed, batch_part
        self._chunk = chunk_length(
            features, noise_density=noise_density, mean_span_length=mean_span_length
        )
        self._noise, self._spans = _noise_counts(
            self._chunk, noise_density, mean_span_length
        )
        vocabulary.sentinel_id(self._spans - 1)  # An error if there are too few.
        self._first_sentinel = vocabulary.sentinel_id(0)
        self._documents = token_store.Ragged.joined(
            [dataset.columns.targets for dataset in datasets]
        )
        self._num_chunks = len(self._documents.values) // self._chunk
        if not self._num_chunks:
            raise errors.DataError(
                found=f"{len(self._documents.values)} tokens of text",
                expected=f"at least one chunk of {self._chunk} tokens",
                do="Give more text, or shorter TASK_FEATURE_LENGTHS",
            )
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)

    @property
    def shapes(self) -> tuple[shapes_lib.Lengths, ...]:
        """The one shape; every batch fills it."""
        return (_lengths(self._chunk, self._noise, self._spans),)

    @property
    def num_batches_per_epoch(self) -> int:
        """Steps in which every chunk is seen about once.

        Batches run on over the end of an epoch, so the last may hold chunks of two.
        """
        return -(-self._num_chunks // self._batch_size)

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, from 0; the same for every call."""
        rows = step * self._batch_size + np.arange(self._batch_size)
        pairs = [
            self._row(int(row)) for row in batches_lib.my_rows(rows, self._batch_part)
        ]
        targets = np.stack([target for _, target in pairs])
        return {
            "encoder_input_tokens": np.stack([source for source, _ in pairs]),
            "decoder_input_tokens": batches_lib.shift_right(targets),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": np.ones(targets.shape, np.float32),
        }

    def _row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, place = divmod(row, self._num_chunks)
        tokens, order = self._epoch(epoch)
        start = int(order[place]) * self._chunk
        rng = batches_lib.generator(self._seed, _NOISE, row)
        return corrupt(
            tokens[start : start + self._chunk],
            noise_mask(self._chunk, self._noise, self._spans, rng=rng),
            first_sentinel=self._first_sentinel,
        )

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the epoch's text in one piece and the order of its chunks."""
        documents = self._documents
        rng = batches_lib.generator(self._seed, _DOCUMENTS, epoch)
        order = rng.permutation(len(documents.lengths))
        lengths = documents.lengths[order]
        ends = np.cumsum(lengths)
        # Token t of the new text is at t, less its document's new start, plus its
        # document's old start.
        shift = np.repeat(documents.offsets[:-1][order] - (ends - lengths), lengths)
        tokens = documents.values[np.arange(len(documents.values)) + shift]
        chunks = batches_lib.generator(self._seed, _CHUNKS, epoch)
        return tokens, chunks.permutation(self._num_chunks)


def missing_spans(
    dataset: token_store.TokenizedDataset,
    rows: Sequence[int],
    *,
    vocabulary: vocabulary.SentencePiece,
    seed: int,
) -> token_store.TokenizedDataset:
    """Returns the inputs of rows with spans missing, which are the one answer.

    Rows whose input is a single token are left out, which is printed. Which spans of a
    row are missing hangs on the seed and its place alone, and not on the other rows.

    Args:
      dataset: The split that the rows are of.
      rows: Places of the rows in the split.
      vocabulary: Of the tokens; gives the sentinels.
      seed: Decides the spans; 0 or more.

    Raises:
      ConfigError: Too few sentinels for an input.
      DataError: No input has two tokens.
    """
    examples = {row: dataset[row] for row in rows}
    pairs = {
        row: without_spans(example.inputs, row, vocabulary=vocabulary, seed=seed)
        for row, example in examples.items()
        if num_tokens(example.inputs) > 1
    }
    tell_left_out(len(rows) - len(pairs), len(rows), dataset.name)
    if not pairs:
        raise errors.DataError(
            found=f"{len(rows)} rows of {dataset.name}, none with two tokens of input",
            expected="inputs with tokens that can be missing",
            do="Route these by their answers, or by keys",
        )
    # By content, too: NumPy promises no stream of random numbers for ever.
    content = [side.tolist() for pair in pairs.values() for side in pair]
    made_by = json.dumps(["missing spans", dataset.fingerprint, [*pairs], content])
    return token_store.of_answers(
        [examples[row] for row in pairs],
        inputs=[source for source, _ in pairs.values()],
        answers=[target for _, target in pairs.values()],
        manifest={
            "key": {"task": dataset.name, "split": dataset.split},
            "answer_choices": "the missing spans",
            "fingerprint": hashlib.sha256(made_by.encode()).hexdigest()[:16],
        },
    )


def tell_left_out(number: int, count: int, name: str) -> None:
    """Prints how many rows have too few tokens of input for a missing span, if any."""
    if number:
        print(  # noqa: T201
            f"note: {number} of {count} rows of {name} have a single token of input, in"
            " which no span can be missing, and do not count"
        )


def check_sentinels(length: int, vocabulary: vocabulary.SentencePiece) -> None:
    """Raises ConfigError if inputs of a length need more sentinels than there are.

    Args:
      length: Tokens of an input, its end token included.
      vocabulary: Gives the sentinels.
    """
    if length > 2:  # noqa: PLR2004 - else no span can be missing
        spans = _noise_counts(length - 1, _NOISE_DENSITY, _MEAN_SPAN_LENGTH)[1]
        vocabulary.sentinel_id(spans - 1)


def num_tokens(inputs: np.ndarray) -> int:
    """Returns the number of tokens of an input, without an end token."""
    return len(inputs) - int(len(inputs) > 0 and inputs[-1] == EOS_ID)


def without_spans(
    inputs: np.ndarray, row: int, *, vocabulary: vocabulary.SentencePiece, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is left of an input, and the missing spans; as `corrupt` does.

    T5's share of the tokens is dropped, in spans of T5's mean length.

    Args:
      inputs: int32 [length], of two tokens or more; an end token may follow.
      row: Its place, which with the seed decides the spans.
      vocabulary: Of the tokens; gives the sentinels.
      seed: 0 or more.

    Raises:
      ConfigError: Too few sentinels.
    """
    tokens = inputs[: num_tokens(inputs)]
    noise, spans = _noise_counts(len(tokens), _NOISE_DENSITY, _MEAN_SPAN_LENGTH)
    vocabulary.sentinel_id(spans - 1)  # An error if there are too few.
    rng = batches_lib.generator(seed, _ROWS, row)
    dropped = noise_mask(len(tokens), noise, spans, rng=rng)
    return corrupt(tokens, dropped, first_sentinel=vocabulary.sentinel_id(0))


def chunk_length(
    features: tasks.Features,
    *,
    noise_density: float = _NOISE_DENSITY,
    mean_span_length: float = _MEAN_SPAN_LENGTH,
) -> int:
    """Returns the most tokens that fit both lengths once corrupted.

    >>> chunk_length(tasks.Features(inputs_length=512, targets_length=114))
    568

    Args:
      features: Lengths, with room for sentinels and end tokens.
      noise_density: Share of tokens to drop, in (0, 1).
      mean_span_length: Mean length of a dropped span in tokens, at least 1.
    """
    if not (0 < noise_density < 1 and mean_span_length >= 1):
        raise errors.ConfigError(
            found=f"noise_density={noise_density}, mean_span_length={mean_span_length}",
            expected="a share between 0 and 1, and a length of 1 or more",
            do="Use T5's 0.15 and 3.0",
        )
    best = 0
    for length in range(2, features.inputs_length + features.targets_length):
        noise, spans = _noise_counts(length, noise_density, mean_span_length)
        fits_inputs = length - noise + spans + 1 <= features.inputs_length
        if fits_inputs and noise + spans + 1 <= features.targets_length:
            best = length
    if not best:
        raise errors.ConfigError(
            found=f"lengths {features.inputs_length} and {features.targets_length}",
            expected="room for a span, its sentinel and the end token in both",
            do="Set longer TASK_FEATURE_LENGTHS",
        )
    return best


def lengths(features: tasks.Features) -> shapes_lib.Lengths:
    """Returns the lengths of all batches with T5's share and spans of dropped tokens.

    Args:
      features: Lengths, with room for sentinels and end tokens.

    Raises:
      ConfigError: The lengths have no room for a span, its sentinel and the end token.
    """
    chunk = chunk_length(features)
    return _lengths(chunk, *_noise_counts(chunk, _NOISE_DENSITY, _MEAN_SPAN_LENGTH))


def _lengths(chunk: int, noise: int, spans: int) -> shapes_lib.Lengths:
    return shapes_lib.Lengths(chunk - noise + spans + 1, noise + spans + 1)


def noise_mask(
    length: int, num_noise: int, num_spans: int, *, rng: np.random.Generator
) -> np.ndarray:
    """Returns which tokens are dropped: bool [length], False first.

    Kept and dropped spans alternate; both kinds are random partitions.

    Args:
      length: Tokens of the chunk.
      num_noise: How many of them are dropped.
      num_spans: In how many spans, each of at least one token.
      rng: Decides the lengths of spans.
    """
    dropped_lengths = _random_parts(num_noise, num_spans, rng)
    kept_lengths = _random_parts(length - num_noise, num_spans, rng)
    lengths = np.stack([kept_lengths, dropped_lengths], axis=1).reshape(-1)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def corrupt(
    tokens: np.ndarray, dropped: np.ndarray, *, first_sentinel: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and targets: each side's missing spans become sentinels.

    >>> corrupt(np.arange(10, 15), np.array([0, 1, 1, 0, 0], bool), first_sentinel=99)
    (array([10, 99, 13, 14,  1], dtype=int32), array([99, 11, 12,  1], dtype=int32))

    Args:
      tokens: int [length].
      dropped: bool [length], the first False; spans that go to the targets.
      first_sentinel: Id of the first span's sentinel; later ones count down.
    """
    starts = dropped & ~np.concatenate([[False], dropped[:-1]])
    sentinels = first_sentinel + 1 - np.cumsum(starts)
    # An end token, as T5 has one, closes both sides.
    inputs = np.where(starts, sentinels, tokens)[~dropped | starts]
    marked = np.stack([sentinels, tokens], axis=1)
    targets = marked[np.stack([starts, dropped], axis=1)]
    end = [EOS_ID]
    return (
        np.concatenate([inputs, end]).astype(np.int32),
        np.concatenate([targets, end]).astype(np.int32),
    )


def _noise_counts(
    length: int, noise_density: float, mean_span_length: float
) -> tuple[int, int]:
    """Returns how many tokens of a chunk are dropped, and in how many spans."""
    noise = min(max(round(length * noise_density), 1), length - 1)
    spans = max(round(noise / mean_span_length), 1)
    return noise, min(spans, length - noise)


def _random_parts(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `parts` positive lengths that sum to `total`, all splits alike likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
