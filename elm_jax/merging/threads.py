"""What is made of each expert alone, of two of them at a time.

NumPy lets other threads compute while it does. What is made of one expert does not
depend on what is made of another, so that the bits are the same as one after another.
"""

from collections.abc import Callable, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np

# Each holds a few copies of what one expert changes, of which many are in memory.
_AT_ONCE = 2
_FEW = 8 * _AT_ONCE
_MANY = 1 << 20  # numbers; of fewer, threads cost more than they save

Item = TypeVar("Item")
Made = TypeVar("Made")


def each(
    work: Callable[[Item], Made],
    items: Sequence[Item],
    *,
    numbers: int,
    few: int | None = None,
) -> list[Made]:
    """Returns what is made of each item, as `map` does.

    Args:
      work: What to make of an item; it may write into arrays, where no other does.
      items: One or more.
      numbers: That are read, of all items.
      few: Items of fewer are made one after another; None for a usual number.
    """
    if len(items) < (_FEW if few is None else few) or numbers < _MANY:
        return [work(item) for item in items]
    # A thread has its own error handling; it would warn of what is reported elsewhere.
    handling = np.geterr()
    pool = futures.ThreadPoolExecutor(
        _AT_ONCE, initializer=lambda: np.seterr(**handling)
    )
    with pool:
        return list(pool.map(work, items))
