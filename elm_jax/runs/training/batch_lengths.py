"""The data of a training and the lengths of its batches, which decide its programs."""

import functools
from collections.abc import Mapping

from elm_jax.data import shapes, span_corruption
from elm_jax.partitioning import processes
from elm_jax.runs import data_doubts, task_data
from elm_jax.runs.training import kinds, mixing
from elm_jax.runs.training.spec import TrainingSpec


def open_examples(
    spec: TrainingSpec, data: task_data.OpenedData
) -> Mapping[str, mixing.Examples]:
    """Returns the data of each expert, also of those that others train.

    All caches come first: a task that cannot be read is told before any training, and
    shapes must not depend on the shard or on what is finished already.

    Args:
      spec: The training.
      data: Where its data are; caches that are not there yet are built.

    Raises:
      ElmError: A task cannot be read, or a rate of the mixture fits no task.
    """
    open_task = functools.cache(lambda task: data.open(task, "train"))
    with processes.main_first("token caches"):
        examples = {
            name: [open_task(task) for task in expert.tasks]
            for name, expert in spec.experts.items()
        }
    data_doubts.check(d for datasets in examples.values() for d in datasets)
    mixing.check_rates(spec.tasks, spec.batching.max_examples, examples)
    return examples


def find(
    spec: TrainingSpec,
    data: task_data.OpenedData,
    examples: Mapping[str, mixing.Examples],
) -> tuple[shapes.Lengths, ...]:
    """Returns all lengths that batches may have, the same for every expert.

    Args:
      spec: The training.
      data: The opened data, with the features' lengths.
      examples: Of each expert.
    """
    if kinds.KINDS[spec.kind].objective == "span_corruption":
        return (span_corruption.lengths(data.features),)
    num_shapes = 0 if spec.batching.pack else spec.batching.num_shapes
    # Each once, whatever the number of experts or seeds that train on it.
    every = [*{d.name: d for datasets in examples.values() for d in datasets}.values()]
    return spec.data.options.common_shapes(every, num_shapes=num_shapes)
