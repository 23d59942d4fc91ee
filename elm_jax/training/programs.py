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
    """Foresees compilations, in which no signal can be answered.

    How long one will take is not known, only what the last took; where that was little,
    a signal in a longer one may cost no more than `slow_secs` of work either.

    Args:
      slow_secs: From which time on a compilation is slow, or unsaved work is much.
      clock: Returns seconds; passed in so that tests need not wait.
    """

    def __init__(
        self, *, slow_secs: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slow_secs, self._clock = slow_secs, clock
        self._known_shapes: set[Shape] = set()
        self._last_secs = 0.0
        self._saved_at = clock()

    def must_save_before(self, batch: Batch) -> bool:
        """Returns whether to save before a step that needs a new program.

        One should if the last new program took long to compile, or if the last save
        of this kind (`note_saved`) was long ago.
        """
        if shape_of(batch) in self._known_shapes:
            return False
        secs_since_save = self._clock() - self._saved_at
        return max(self._last_secs, secs_since_save) > self._slow_secs

    def note_saved(self) -> None:
        """Says that all work up to now has been saved."""
        self._saved_at = self._clock()

    @contextlib.contextmanager
    def running(self, batch: Batch) -> Iterator[None]:
        """Around the call of a step, which compiles where it must, then returns."""
        begun, shape = self._clock(), shape_of(batch)
        yield
        if shape not in self._known_shapes:
            self._known_shapes.add(shape)
            self._last_secs = self._clock() - begun
