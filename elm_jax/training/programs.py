"""Which shapes of batches have a program yet, and how long compiling one takes."""

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from elm_jax.types import Batch

Shape = tuple[tuple[str, tuple[int, ...]], ...]


def shape_of(batch: Batch) -> Shape:
    """Returns what decides a batch's program: the shape of each of its arrays."""
    return tuple((name, np.shape(leaf)) for name, leaf in batch.items())


class Programs:
    """Foresees slow compilations, in which no signal can be answered.

    Args:
      slow_secs: From which time on one is slow.
      clock: Returns seconds; passed in so that tests need not wait.
    """

    def __init__(
        self, *, slow_secs: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slow_secs, self._clock = slow_secs, clock
        self._known: set[Shape] = set()
        self._last_secs = 0.0

    def will_be_slow(self, batch: Batch) -> bool:
        """Returns whether the batch needs a new program, and the last took long."""
        is_new = shape_of(batch) not in self._known
        return is_new and self._last_secs > self._slow_secs

    @contextlib.contextmanager
    def running(self, batch: Batch) -> Iterator[None]:
        """Around the call of a step, which compiles where it must, then returns."""
        begun, shape = self._clock(), shape_of(batch)
        yield
        if shape not in self._known:
            self._known.add(shape)
            self._last_secs = self._clock() - begun
