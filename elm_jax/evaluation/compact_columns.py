"""Per-example results in little memory: answers that are right or wrong take a byte."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from elm_jax.evaluation import statistics


class Kept(NamedTuple):
    """The results of one model on one task, as they are kept.

    Attributes:
      example_ids: int64 [n], shared by models that were scored on the same rows.
      values: [n] of the smallest type that holds each score exactly.
    """

    example_ids: np.ndarray
    values: np.ndarray


def compact(values: np.ndarray) -> np.ndarray:
    """Returns scores as bytes where all are whole numbers below 256, else as they are.

    >>> compact(np.array([100.0, 0.0])).dtype, compact(np.array([62.5])).dtype
    (dtype('uint8'), dtype('float64'))
    """
    with np.errstate(invalid="ignore"):  # no byte equals NaN
        whole = values.astype(np.uint8)
    return whole if bool((whole == values).all()) else values


class CompactColumns(Mapping[statistics.Key, statistics.Column]):
    """Columns of one model, each made when it is asked for.

    Args:
      columns: What is kept of each column.
    """

    def __init__(self, columns: Mapping[statistics.Key, Kept]) -> None:
        self._columns = columns

    def __getitem__(self, key: statistics.Key) -> statistics.Column:
        ids, values = self._columns[key]
        return statistics.Column(ids, values.astype(np.float64))

    def __iter__(self) -> Iterator[statistics.Key]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __contains__(self, key: object) -> bool:
        return key in self._columns


def ids_of(columns: statistics.Columns, key: statistics.Key) -> np.ndarray:
    """Returns the rows of a column, without making it."""
    if isinstance(columns, CompactColumns):
        return columns._columns[key].example_ids
    return columns[key].example_ids
