"""What is made of each expert alone, of two of them at a time.

NumPy lets other threads compute while it does. What is made of one expert does not
depend on what is made of another, so that the bits are the same as one after another.

The two threads are for all that a process merges: while one of them makes what was
begun early, the other one makes everything else.
"""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np

# Each holds a few copies of what one expert changes, of which many are in memory.
_AT_ONCE = 2
_NAME = "merging"
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
    are_few = len(items) < (_FEW if few is None else few) or numbers < _MANY
    if are_few or threading.current_thread().name.startswith(_NAME):
        return [work(item) for item in items]
    return list(_pool().map(_handling_errors(work), items))


def begun(work: Callable[[Item], Made], item: Item) -> futures.Future[Made]:
    """Begins to make something of an item in one of the threads.

    Args:
      work: What to make of it; what it makes by `each`, it makes alone.
      item: It is not held longer than the work takes.
    """
    return _pool().submit(_handling_errors(work), item)


@functools.cache
def _pool() -> futures.ThreadPoolExecutor:
    return futures.ThreadPoolExecutor(_AT_ONCE, _NAME)


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not forked


def _handling_errors(work: Callable[[Item], Made]) -> Callable[[Item], Made]:
    """Returns work that warns in a thread of no more than here.

    A thread has its own error handling; it would warn of what is reported elsewhere.
    """
    handling = np.geterr()

    def handled(item: Item) -> Made:
        with np.errstate(**handling):
            return work(item)

    return handled
