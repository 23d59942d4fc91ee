"""Several examples side by side in one row, kept apart by segment ids."""

from collections.abc import Sequence

import numpy as np

from elm_jax.data import batches as batches_lib
from elm_jax.data import shapes as shapes_lib
from elm_jax.data import tasks, token_store
from elm_jax.types import PAD_ID, Batch

_ROWS, _ORDER = 10, 11  # Streams of random numbers beside those of `batches`.
# Rows that still take examples while packing; more fill better and pack slower.
_OPEN_ROWS = 128


class PackedBatches:
    """Batches of one shape whose rows hold as many examples as fit.

    Examples are assigned to rows once, by the seed; each epoch shuffles the rows.
    Segment ids count from 1 within a row, positions from 0 within a segment.

    Args:
      datasets: Tokenised tasks; a mixture is several, in proportion to their sizes.
      batch_size: Rows per batch, over all processes.
      features: Lengths of a row.
      seed: Decides rows, order and subsets; 0 or more.
      max_examples: Cap per task, or caps by task; a larger task gives a random subset,
        fixed by seed.
      shard: `(index, count)`: which equal part of each batch's rows to make.

    Raises:
      ConfigError: An example is longer than a row.
    """

    def __init__(
        self,
        datasets: Sequence[token_store.TokenizedDataset],
        *,
        batch_size: int,
        features: tasks.Features,
        seed: int,
        max_examples: batches_lib.MaxExamples = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        batches_lib.check_sizes(batch_size, seed=seed, shard=shard)
        self._examples = batches_lib.Examples(
            datasets, seed=seed, max_examples=max_examples
        )
        self._batch_size, self._seed, self._shard = batch_size, seed, shard
        self._shape = shapes_lib.Shape(features.inputs_length, features.targets_length)
        shapes_lib.assign_shapes(self._examples.lengths, [self._shape])
        self._rows = pack(self._examples.lengths, self._shape, seed=seed)

    @property
    def shapes(self) -> tuple[shapes_lib.Shape, ...]:
        """The one shape."""
        return (self._shape,)

    @property
    def num_batches_per_epoch(self) -> int:
        """Steps in which every example is seen once."""
        return -(-len(self._rows) // self._batch_size)

    def stats(self, epoch: int = 0) -> batches_lib.BatchStats:
        """Returns counts of an epoch; all epochs have the same."""
        del epoch
        cells = self.num_batches_per_epoch * self._batch_size * sum(self._shape)
        return batches_lib.BatchStats(
            num_examples=len(self._examples),
            num_batches=self.num_batches_per_epoch,
            real_tokens=int(self._examples.lengths.sum()),
            padded_tokens=cells,
        )

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, from 0; the same for every call."""
        epoch, index = divmod(step, self.num_batches_per_epoch)
        order = batches_lib.generator(self._seed, _ORDER, epoch).permutation(
            len(self._rows)
        )
        start = index * self._batch_size
        chosen: list[Sequence[int]] = [
            self._rows[row] for row in order[start : start + self._batch_size]
        ]
        chosen += [()] * (self._batch_size - len(chosen))
        first, count = self._shard
        size = self._batch_size // count
        return self._filled(chosen[first * size : (first + 1) * size])

    def _filled(self, rows: Sequence[Sequence[int]]) -> Batch:
        sides = (
            ("encoder", self._shape.inputs_length),
            (
                "decoder",
                self._shape.targets_length,
            ),
        )
        tokens, segments, positions = (
            {side: np.zeros((len(rows), length), np.int32) for side, length in sides}
            for _ in range(3)
        )
        for place, numbers in enumerate(rows):
            filled = {"encoder": 0, "decoder": 0}
            for segment, number in enumerate(numbers, start=1):
                both = self._examples.tokens(number)
                for side, part in zip(filled, both, strict=True):
                    where = slice(filled[side], filled[side] + len(part))
                    tokens[side][place, where] = part
                    segments[side][place, where] = segment
                    positions[side][place, where] = np.arange(len(part))
                    filled[side] = where.stop
        targets = tokens["decoder"]
        shifted = batches_lib.shift_right(targets)
        return {
            "encoder_input_tokens": tokens["encoder"],
            # The first token of a segment must not see the segment before it.
            "decoder_input_tokens": np.where(positions["decoder"] > 0, shifted, PAD_ID),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (targets != PAD_ID).astype(np.float32),
            "encoder_segment_ids": segments["encoder"],
            "decoder_segment_ids": segments["decoder"],
            "encoder_positions": positions["encoder"],
            "decoder_positions": positions["decoder"],
        }


def pack(lengths: np.ndarray, shape: shapes_lib.Shape, *, seed: int) -> list[list[int]]:
    """Returns for each row the numbers of the examples in it.

    Longest first, each into the fullest open row that has room for both its parts.

    Args:
      lengths: int [examples, 2], tokens of inputs and of targets.
      shape: Lengths of a row; every example fits one.
      seed: Decides the order among examples of equal length.
    """
    order = batches_lib.generator(seed, _ROWS).permutation(len(lengths))
    order = order[np.argsort(-lengths[order].sum(axis=1), kind="stable")]
    room = np.zeros((_OPEN_ROWS, 2), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(_OPEN_ROWS)]
    rows: list[list[int]] = []
    for number in order:
        left = (room - lengths[number]).astype(np.float64)
        spare = np.where((left >= 0).all(axis=1), left.sum(axis=1), np.inf)
        slot = int(np.argmin(spare))
        if np.isinf(spare[slot]):
            slot = int(np.argmin(room.sum(axis=1)))  # The fullest row is closed.
            rows.append(open_rows[slot])
            open_rows[slot], room[slot] = [], shape
        open_rows[slot].append(int(number))
        room[slot] -= lengths[number]
    return [row for row in rows + open_rows if row]
