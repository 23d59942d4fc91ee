"""Packing: several examples in one row, separated by segment ids."""

from collections.abc import Sequence

import numpy as np

from elm_jax.data import batches as batches_lib
from elm_jax.data import shapes as shapes_lib
from elm_jax.data import tasks, token_store
from elm_jax.types import PAD_ID, Batch

_ROWS, _ORDER = 10, 11  # Streams of random numbers, different from those of `batches`.
# For choosing a row's lengths: examples looked at, growth from one length of targets
# to the next, and the share of tokens that is not padding from which a row will do.
_LOOKED_AT, _GROWTH, _GOOD_SHARE = 2048, 1.2, 0.9


class PackedBatches:
    """Batches of one shape whose rows hold as many examples as fit.

    Examples are assigned to rows once, by the seed; each epoch shuffles the rows.
    Segment ids count from 1 within a row, positions from 0 within a segment.

    Args:
      datasets: Tokenised tasks; a mixture is several, in proportion to their sizes.
      batch_size: Rows per batch, over all processes.
      row: Lengths of a row, such as `choose_row` gives.
      seed: Decides rows, order and subsets; 0 or more.
      max_examples: Cap per task, or caps by task; a larger task gives a random subset,
        fixed by seed.
      batch_part: `(index, count)`: which equal part of each batch's rows to make.

    Raises:
      ConfigError: An example is longer than a row.
    """

    def __init__(
        self,
        datasets: Sequence[token_store.TokenizedDataset],
        *,
        batch_size: int,
        row: shapes_lib.Lengths,
        seed: int,
        max_examples: batches_lib.MaxExamples = None,
        batch_part: tuple[int, int] = (0, 1),
    ) -> None:
        batches_lib.check_sizes(batch_size, seed=seed, batch_part=batch_part)
        self._examples = batches_lib.Examples(
            datasets, seed=seed, max_examples=max_examples
        )
        self._batch_size, self._seed, self._batch_part = batch_size, seed, batch_part
        self._shape = row
        shapes_lib.assign_shapes(self._examples.lengths, [self._shape])
        self._rows = pack(self._examples.lengths, self._shape, seed=seed)

    @property
    def shapes(self) -> tuple[shapes_lib.Lengths, ...]:
        """The one shape."""
        return (self._shape,)

    @property
    def num_batches_per_epoch(self) -> int:
        """Steps in which every example is seen once."""
        return -(-len(self._rows) // self._batch_size)

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
        part, count = self._batch_part
        size = self._batch_size // count
        return self._filled(chosen[part * size : (part + 1) * size])

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
                parts = self._examples.tokens(number)
                for side, part in zip(filled, parts, strict=True):
                    span = slice(filled[side], filled[side] + len(part))
                    tokens[side][place, span] = part
                    segments[side][place, span] = segment
                    positions[side][place, span] = np.arange(len(part))
                    filled[side] = span.stop
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


def choose_row(lengths: np.ndarray, features: tasks.Features) -> shapes_lib.Lengths:
    """Returns lengths of a row that leave little padding on either of its sides.

    Inputs are those of `features`, or twice as long where only that leaves room for
    second examples beside long ones. How many targets go with them depends on the
    tasks: rows that are full on one side are padded on the other.

    Args:
      lengths: int [examples, 2], tokens of inputs and of targets.
      features: Lengths that every example fits.
    """
    rng = batches_lib.generator(0, _ROWS)
    sampled = lengths[rng.permutation(len(lengths))[:_LOOKED_AT]]
    best = shapes_lib.Lengths(features.inputs_length, features.targets_length)
    best_share = 0.0
    for times in (1, 2):
        for targets in _target_lengths(lengths, times * features.targets_length):
            shape = shapes_lib.Lengths(times * features.inputs_length, targets)
            cells = len(pack(sampled, shape, seed=0)) * sum(shape)
            share = sampled.sum() / cells
            if share > best_share:
                best, best_share = shape, share
        if best_share >= _GOOD_SHARE:
            break
    return best


def _target_lengths(lengths: np.ndarray, most: int) -> list[int]:
    """Returns lengths of targets to try, from the longest example's to `most`."""
    multiple = shapes_lib.MULTIPLE
    tried = [min(most, int(-(-max(1, lengths[:, 1].max()) // multiple) * multiple))]
    while tried[-1] < most:
        grown = int(-(-tried[-1] * _GROWTH // multiple) * multiple)
        tried.append(min(most, grown))
    return tried


def pack(
    lengths: np.ndarray, shape: shapes_lib.Lengths, *, seed: int
) -> list[list[int]]:
    """Returns for each row the numbers of the examples in it.

    The longest examples come first. Each goes into the fullest row that has room
    for its inputs and targets.

    >>> pack(np.array([[3, 1], [5, 1], [3, 1]]), shapes_lib.Lengths(8, 4), seed=0)
    [[1, 0], [2]]

    Args:
      lengths: int [examples, 2], tokens of inputs and of targets.
      shape: Lengths of a row; every example fits one.
      seed: Decides the order among examples of equal length.
    """
    order = batches_lib.generator(seed, _ROWS).permutation(len(lengths))
    kinds, kind_of = np.unique(lengths[order], axis=0, return_inverse=True)
    by_kind = order[np.argsort(kind_of.ravel(), kind="stable")]
    members = np.split(by_kind, np.cumsum(np.bincount(kind_of.ravel()))[:-1])
    rows = _Rows(shape)
    for kind in np.argsort(-kinds.sum(axis=1), kind="stable"):
        inputs, targets = map(int, kinds[kind])
        waiting = members[kind].tolist()
        while waiting:
            waiting = rows.fill(waiting, inputs, targets)
    return rows.numbers


class _Rows:
    """Rows that are being filled, indexed by the room that is left in them.

    Attributes:
      numbers: For each row, its examples.
    """

    def __init__(self, shape: shapes_lib.Lengths) -> None:
        self.numbers: list[list[int]] = []
        self._shape = shape
        self._by_room: dict[tuple[int, int], list[int]] = {}
        # Room of both kinds together, at each pair of rooms that some row has.
        size = (shape.inputs_length + 1, shape.targets_length + 1)
        self._none = sum(size)
        self._room_sum = np.full(size, self._none, np.int32)

    def fill(self, waiting: list[int], inputs: int, targets: int) -> list[int]:
        """Puts examples of equal lengths into a row; returns those that do not fit."""
        row, (inputs_room, targets_room) = self._take_fullest(inputs, targets)
        count = min(
            inputs_room // inputs, targets_room // targets if targets else 2**31
        )
        self.numbers[row] += waiting[:count]
        count = min(count, len(waiting))
        room = (inputs_room - count * inputs, targets_room - count * targets)
        self._by_room.setdefault(room, []).append(row)
        self._room_sum[room] = sum(room)
        return waiting[count:]

    def _take_fullest(self, inputs: int, targets: int) -> tuple[int, tuple[int, int]]:
        """Returns the fullest row with that much room, or a new one, and its room."""
        fitting = self._room_sum[inputs:, targets:]
        place = int(fitting.argmin())
        if fitting.flat[place] == self._none:
            self.numbers.append([])
            return len(self.numbers) - 1, self._shape
        up, right = divmod(place, fitting.shape[1])
        room = (inputs + up, targets + right)
        rows = self._by_room[room]
        row = rows.pop()
        if not rows:
            self._room_sum[room] = self._none
        return row, room
