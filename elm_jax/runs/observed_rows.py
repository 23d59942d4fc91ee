"""The rows on which an expert is observed, and its gates are trained."""

from collections.abc import Iterator

import numpy as np

from elm_jax.checkpoints import manifest
from elm_jax.data import batches, shapes
from elm_jax.evaluation import batching
from elm_jax.runs import routing_records, task_data
from elm_jax.types import Batch


class Rows:
    """Examples of an expert's tasks, in batches that are as long as their longest row.

    Args:
      data: Where they are.
      info: Of the expert.
      settings: How many, and in what order.
    """

    def __init__(
        self,
        data: task_data.OpenedData,
        info: manifest.Manifest,
        settings: routing_records.Settings,
    ) -> None:
        self._settings = settings
        datasets = [data.open(task, settings.split) for task in info.tasks]
        self._examples = batches.Examples(datasets, seed=settings.random_seed)
        draw = np.random.default_rng(settings.random_seed).permutation
        self._chosen = draw(len(self._examples))[: settings.num_examples]

    def once(self) -> Iterator[Batch]:
        """Yields every chosen example once; the last batch is filled with padding."""
        size = self._settings.batch_size
        for start in range(0, len(self._chosen), size):
            yield self._padded(self._chosen[start : start + size])

    def of_step(self, step: int) -> Batch:
        """Returns the batch of a step of training, drawn without repetition."""
        seed = (self._settings.random_seed, step)
        drawn = np.random.default_rng(seed).permutation(self._chosen)
        return self._padded(drawn[: self._settings.batch_size])

    def _padded(self, rows: np.ndarray) -> Batch:
        """Returns a batch of these rows, filled up with padding."""
        inputs, targets = self._examples.lengths[rows].max(axis=0)
        # Of a ladder of sizes, so that few programs are compiled.
        shape = shapes.Lengths(
            inputs_length=batching.round_up(int(inputs), least=32),
            targets_length=batching.round_up(int(targets), least=8),
        )
        missing = self._settings.batch_size - len(rows)
        filled = np.pad(rows, (0, missing), constant_values=-1)
        return self._examples.padded(filled, shape)
