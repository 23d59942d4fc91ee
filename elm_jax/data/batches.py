"""Training batches as a pure function of `(seed, step)`.

Any step can be asked for at any time and in any order: a resumed run, a second host
and a prefetching thread all see the same batches.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from elm_jax import errors
from elm_jax.data import shapes as shapes_lib
from elm_jax.data import token_store
from elm_jax.types import PAD_ID, Batch

MaxExamples = int | Mapping[str, int] | None
"""A cap for every task, caps by task's name, or none."""

# Streams of random numbers that must not repeat one another.
_SUBSET, _WITHIN, _BETWEEN = range(3)


class BatchSource(Protocol):
    """Where a train loop gets its batches."""

    @property
    def shapes(self) -> tuple[shapes_lib.Lengths, ...]:
        """All lengths that batches may have; each is one compilation."""
        ...

    @property
    def num_batches_per_epoch(self) -> int:
        """Steps in which every example is seen once."""
        ...

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, from 0."""
        ...


class _Plan(NamedTuple):
    """One epoch: rows [batches, batch_size] of example numbers, -1 for padding."""

    rows: np.ndarray
    shape_index: np.ndarray


class Batches:
    """Batches of like-sized examples, padded to one of a few shapes.

    In each epoch every example is seen once. Examples are shuffled within their
    shape. Those that do not fill a batch there are batched together in a larger shape.
    Then the batches are shuffled. Only the last of them may have padding rows.

    Args:
      datasets: Tokenised tasks; a mixture is several, in proportion to their sizes.
      batch_size: Rows per batch, over all processes.
      seed: Decides order and subsets; 0 or more.
      num_shapes: Most shapes to choose from the data.
      shapes: The shapes to use instead, such as those of a whole fleet of experts.
      max_examples: Cap per task, or caps by task; a larger task gives a random subset,
        fixed by seed.
      batch_part: `(index, count)`: which equal part of each batch's rows to make, for
        one of several processes.
    """

    def __init__(
        self,
        datasets: Sequence[token_store.TokenizedDataset],
        *,
        batch_size: int,
        seed: int,
        num_shapes: int = 4,
        shapes: Sequence[shapes_lib.Lengths] | None = None,
        max_examples: MaxExamples = None,
        batch_part: tuple[int, int] = (0, 1),
    ) -> None:
        check_sizes(batch_size, seed=seed, batch_part=batch_part)
        self._examples = Examples(datasets, seed=seed, max_examples=max_examples)
        self._batch_size, self._seed = batch_size, seed
        self._batch_part = batch_part
        lengths = self._examples.lengths
        chosen = shapes or shapes_lib.choose_shapes(lengths, num_shapes=num_shapes)
        self._shapes = tuple(chosen)
        self._assigned = shapes_lib.assign_shapes(lengths, self._shapes)
        # Two epochs: prefetching crosses from one to the next.
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

    @property
    def shapes(self) -> tuple[shapes_lib.Lengths, ...]:
        """All lengths that batches may have, smallest first."""
        return self._shapes

    @property
    def num_batches_per_epoch(self) -> int:
        """Steps in which every example is seen once."""
        return -(-len(self._examples) // self._batch_size)

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, from 0; the same for every call."""
        epoch, index = divmod(step, self.num_batches_per_epoch)
        plan = self._plan(epoch)
        rows = my_rows(plan.rows[index], self._batch_part)
        return self._examples.padded(rows, self._shapes[plan.shape_index[index]])

    def _make_plan(self, epoch: int) -> _Plan:
        size, full, rest = self._batch_size, [], []
        shape_index: list[int] = []
        for index in range(len(self._shapes)):
            members = np.flatnonzero(self._assigned == index)
            shuffler = generator(self._seed, _WITHIN, epoch, index)
            members = shuffler.permutation(members)
            cut = len(members) // size * size
            full.append(members[:cut].reshape(-1, size))
            shape_index += [index] * (cut // size)
            rest.append(members[cut:])
        rest_rows = np.concatenate(rest)
        rest_rows = np.concatenate([rest_rows, np.full(-len(rest_rows) % size, -1)])
        for rows in rest_rows.reshape(-1, size):
            shape_index.append(self._covering(rows[rows >= 0]))
        rows = np.concatenate([*full, rest_rows.reshape(-1, size)]).astype(np.int64)
        order = generator(self._seed, _BETWEEN, epoch).permutation(len(rows))
        return _Plan(rows[order], np.asarray(shape_index)[order])

    def _covering(self, members: np.ndarray) -> int:
        """Returns the smallest shape that has room for all of these examples."""
        longest = self._examples.lengths[members].max(axis=0, keepdims=True)
        return int(shapes_lib.assign_shapes(longest, self._shapes)[0])


class Examples:
    """The examples of several datasets under one numbering.

    Args:
      datasets: Tokenised tasks.
      seed: Decides the subset of a capped task.
      max_examples: Cap per task.

    Attributes:
      lengths: int64 [examples, 2], tokens of inputs and of targets.

    Raises:
      DataError: There are no datasets, or one has no inputs.
    """

    def __init__(
        self,
        datasets: Sequence[token_store.TokenizedDataset],
        *,
        seed: int,
        max_examples: MaxExamples = None,
    ) -> None:
        for dataset in datasets or (None,):
            if dataset is None or not dataset.columns.inputs.lengths.all():
                raise errors.DataError(
                    found=f"{dataset.name} has examples without inputs"
                    if dataset
                    else "no datasets to draw batches from",
                    expected="tasks with inputs and targets",
                    do="Name a prompted task; plain text is for span corruption",
                )
        self._columns = [dataset.columns for dataset in datasets]
        kept_rows = [_subset(dataset, seed, max_examples) for dataset in datasets]
        self._dataset = np.repeat(
            np.arange(len(kept_rows)), [len(rows) for rows in kept_rows]
        )
        self._row = np.concatenate(kept_rows)
        self.lengths = np.concatenate(
            [
                np.stack([c.inputs.lengths[rows], c.targets.lengths[rows]], axis=1)
                for c, rows in zip(self._columns, kept_rows, strict=True)
            ]
        )

    def __len__(self) -> int:
        return len(self._row)

    def tokens(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs and targets of an example, unpadded."""
        columns, row = self._columns[self._dataset[number]], self._row[number]
        return columns.inputs.row(row), columns.targets.row(row)

    def padded(self, numbers: np.ndarray, shape: shapes_lib.Lengths) -> Batch:
        """Returns examples as a batch; number -1 gives a row of padding."""
        inputs = np.full((len(numbers), shape.inputs_length), PAD_ID, np.int32)
        targets = np.full((len(numbers), shape.targets_length), PAD_ID, np.int32)
        for place, number in enumerate(numbers):
            if number >= 0:
                source, target = self.tokens(number)
                inputs[place, : len(source)] = source
                targets[place, : len(target)] = target
        return {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": shift_right(targets),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (targets != PAD_ID).astype(np.float32),
        }


def shift_right(targets: np.ndarray) -> np.ndarray:
    """Returns decoder inputs: targets one place later, padding in front.

    >>> shift_right(np.array([[5, 1, 0]]))
    array([[0, 5, 1]])

    Args:
      targets: int [batch, length].
    """
    return np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=PAD_ID)


def my_rows(rows: np.ndarray, batch_part: tuple[int, int]) -> np.ndarray:
    """Returns the part of a batch's rows that belongs to a process."""
    index, count = batch_part
    size = len(rows) // count
    return rows[index * size : (index + 1) * size]


def check_sizes(batch_size: int, *, seed: int, batch_part: tuple[int, int]) -> None:
    """Raises ConfigError if a batch size, seed or part is out of range."""
    index, count = batch_part
    good = batch_size > 0 and 0 <= index < count and batch_size % count == 0
    if not good or seed < 0:
        raise errors.ConfigError(
            found=f"batch_size={batch_size}, seed={seed}, part {index} of {count}",
            expected="a positive batch size that the number of processes divides, "
            "and a seed of 0 or more",
            do="Correct BATCH_SIZE or RANDOM_SEED",
        )


def generator(*key: int) -> np.random.Generator:
    """Returns the random numbers that belong to a key of integers, 0 or more each."""
    return np.random.default_rng(key)


def _subset(
    dataset: token_store.TokenizedDataset, seed: int, max_examples: MaxExamples
) -> np.ndarray:
    """Returns row numbers of a task's share; the task's name is part of the seed."""
    if isinstance(max_examples, Mapping):
        max_examples = max_examples.get(dataset.name)
    if max_examples is None or len(dataset) <= max_examples:
        return np.arange(len(dataset))
    rng = generator(seed, _SUBSET, zlib.crc32(dataset.name.encode()))
    return np.sort(rng.permutation(len(dataset))[:max_examples])
