"""What an evaluation costs, for its plan: cells, operations and hours."""

import itertools
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax.data import token_store
from elm_jax.model import config as config_lib
from elm_jax.model import cost, t5
from elm_jax.runs import bases, task_data
from elm_jax.runs.run import Plan

# Operations per second by which hours are told: what an accelerator of 400 TFLOP/s does
# at 40 %.
USUAL_FLOPS = 1.6e14


class Part(NamedTuple):
    """A task and split, and how many candidates are scored on it.

    Attributes:
      task: The task's name.
      split: The split's name.
      dataset: Its tokens; None if they are not cached.
      num_rows: How many rows are scored; 0 if nobody knows.
      num_cells: Candidates.
    """

    task: str
    split: str
    dataset: token_store.TokenizedDataset | None
    num_rows: int
    num_cells: int


def parts(
    num_cells: Mapping[str, int],
    splits: Sequence[str],
    data: task_data.OpenedData,
    *,
    most: int,
    choose: Callable[[int, str], Sequence[int]],
) -> list[Part]:
    """Returns what is scored on each task and split; builds no token cache.

    Args:
      num_cells: Candidates of each task.
      splits: The splits of each task that are scored.
      data: Where token caches are.
      most: Rows of each split, where nobody knows how many it has; 0 for all.
      choose: Returns the rows to score of a number of rows and the split's name.
    """
    scored = []
    for task, split in itertools.product(num_cells, splits):
        dataset, rows = data.open_if_cached(task, split), most
        if dataset is not None:
            rows = len(choose(len(dataset), split))
        scored.append(Part(task, split, dataset, rows, num_cells[task]))
    return scored


def cell_flops(
    shape: config_lib.T5Config, dataset: token_store.TokenizedDataset, num_rows: int
) -> int:
    """Returns the operations that it takes to score a model of a shape on some rows.

    Of rows and choices of the mean length, as `cost.forward_flops` counts; padding and
    adapters are left out. An input is encoded once for all of its choices. Written
    answers count with the lengths of the right ones.

    Args:
      shape: The model's shape.
      dataset: The tokens.
      num_rows: How many rows are scored.
    """
    params = t5.param_shapes(t5.T5(shape))
    inputs = _mean(dataset.columns.inputs.lengths)
    answers = dataset.columns.targets
    per_row = 1.0
    if dataset.has_choices:
        answers = dataset.columns.choices
        per_row = len(answers.lengths) / len(dataset)

    def forward(targets_length: int) -> int:
        batch = cost.BatchShape(
            batch_size=1, inputs_length=inputs, targets_length=targets_length
        )
        return cost.forward_flops(shape, batch, params)

    encoded = forward(0)
    decoded = forward(_mean(answers.lengths)) - encoded
    return round(num_rows * (encoded + per_row * decoded))


def describe(
    base_dir: pathlib.Path,
    parts: Iterable[Part],
    *,
    num_shards: int = 1,
    device_flops: float = USUAL_FLOPS,
    more: Mapping[str, float] = types.MappingProxyType({}),
) -> Plan:
    """Returns the lines of a plan: cells, and what all of them cost.

    Args:
      base_dir: Folder of the base, whose shape counts.
      parts: All tasks and splits.
      num_shards: Machines that share the work.
      device_flops: Operations per second of all devices of a machine.
      more: By task what candidates add to the base's operations, such as experts that
        are mixed token by token, in cells of the base.
    """
    all_parts = list(parts)
    shape = bases.model_config(bases.read_manifest(base_dir))
    num_cells = sum(part.num_cells for part in all_parts)
    cells = f"{num_cells:,}"
    if num_shards > 1:
        cells += (
            f", about {-(-num_cells // num_shards):,} in each of {num_shards} shards"
        )
    cached = [part for part in all_parts if part.dataset is not None and part.num_cells]
    total = sum(
        (part.num_cells + more.get(part.task, 0))
        * cell_flops(shape, part.dataset, part.num_rows)
        for part in cached
        if part.dataset is not None
    )
    secs = total / device_flops
    described = f"{total:.2g} FLOPs, {_time(secs)} at {device_flops / 1e12:g} TFLOP/s"
    if num_shards > 1:
        described += f" ({_time(secs / num_shards)} a shard)"
    unknown = sum(part.num_cells for part in all_parts if part.dataset is None)
    if unknown:
        described += f"; {unknown:,} cells more, whose tokens are not cached"
    return {
        "cells": cells,
        "cost, about": described if cached else "unknown before tokens are cached",
    }


def _mean(lengths: np.ndarray) -> int:
    return round(float(lengths.mean()))


def _time(secs: float) -> str:
    """Returns a time span in hours, or below one hour in seconds.

    >>> _time(0.25), _time(1800), _time(90 * 60)
    ('less than 1 s', '1800 s', '1.5 hours')
    """
    if secs < 1:
        return "less than 1 s"
    return f"{secs / 3600:,.1f} hours" if secs >= 3600 else f"{secs:.0f} s"
