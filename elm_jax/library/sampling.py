"""Which rows become keys, queries and evaluation rows: never one row for two.

Rows are put in an order that the seed fixes; keys come from its front, queries from
its back, evaluation rows lie between. Programs that ask with the same numbers get the
same parts, so nothing needs to be stored to keep them apart.
"""

import dataclasses

import numpy as np

from elm_jax import errors

# The paper's S and Q.
NUM_KEYS = 100
NUM_QUERIES = 32


@dataclasses.dataclass(frozen=True)
class RowParts:
    """Disjoint rows of one split, as int64 positions in the order drawn.

    Attributes:
      keys: Rows whose texts stand for an expert in the index.
      queries: Rows whose texts ask for an expert; votes do not use their labels.
      evaluation: All other rows.
    """

    keys: np.ndarray
    queries: np.ndarray
    evaluation: np.ndarray


def divide_rows(
    num_rows: int, *, seed: int, num_keys: int = 0, num_queries: int = 0
) -> RowParts:
    """Returns the keys, queries and evaluation rows of a split; pure in its inputs.

    A training split has keys, a target's split has queries, and a split that is both,
    as in continual learning, has both. Without queries, keys take as many rows as
    asked or as there are. Queries take at most half of what keys leave, so that a
    small target keeps rows to be judged on.

    >>> parts = divide_rows(10, seed=0, num_queries=32)
    >>> len(parts.queries), len(parts.evaluation)
    (5, 5)

    Args:
      num_rows: Rows of the split.
      seed: At least 0.
      num_keys: Keys to draw; 0 if the split feeds no index.
      num_queries: Queries to draw; 0 if the split is no target.

    Raises:
      DataError: Keys or queries are wanted and the split has no row for them.
    """
    order = order_rows(num_rows, seed=seed)
    keys = order[:num_keys]
    rest = order[len(keys) :]
    last = len(rest) - min(num_queries, len(rest) // 2)
    parts = RowParts(keys=keys, queries=rest[last:][::-1], evaluation=rest[:last])
    numbers = (("keys", num_keys), ("queries", num_queries))
    for name, number in numbers:
        if number > 0 and not len(getattr(parts, name)):
            raise errors.DataError(
                found=f"{num_rows} rows for {num_keys} keys and"
                f" {num_queries} queries: none is left for {name}",
                expected="one row for keys, and two more where there are queries",
                do="Give more rows, or draw fewer keys from this split",
            )
    return parts


def order_rows(num_rows: int, *, seed: int) -> np.ndarray:
    """Returns the rows 0 to num_rows - 1 in an order fixed by the seed, int64.

    Rows added later do not change the order of earlier ones among themselves.
    """
    # Raw bits of a bit generator never change between NumPy releases; what
    # Generator.permutation makes of them may.
    draws = np.random.Philox(key=seed).random_raw(num_rows)
    return np.argsort(draws, kind="stable")


def share_keys(num_keys: int, num_tasks: int) -> list[int]:
    """Returns how many keys each task of an expert gives; earlier ones one more.

    >>> share_keys(100, 3)
    [34, 33, 33]
    """
    keys_each, over = divmod(num_keys, num_tasks)
    return [keys_each + (position < over) for position in range(num_tasks)]
