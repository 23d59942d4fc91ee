"""A trace of some steps for XProf, written by JAX itself."""

import pathlib
from typing import Any

import jax

from elm_jax.types import Metrics


class ProfileSteps:
    """A hook that traces the steps from one to another, and its own schedule.

    What comes out is `plugins/profile/<time>/*.xplane.pb` below the folder, which
    `xprof` and TensorBoard's profile plugin show.

    Args:
      folder: Where the trace goes; made when it begins.
      start: Steps before the trace, at least 1: the first step compiles.
      stop: Steps after which it ends.
    """

    def __init__(self, folder: pathlib.Path, *, start: int, stop: int) -> None:
        self._folder, self._start, self._stop = folder, start, stop
        self._is_on = False

    def is_due(self, step: int) -> bool:
        """Returns whether the trace begins or ends after so many steps."""
        is_within = self._start <= step < self._stop
        return is_within != self._is_on

    def hook(self, step: int, state: Any, metrics: Metrics) -> None:
        """Begins or ends the trace; the last step of a training ends it, too."""
        del state, metrics
        if self._is_on:
            self.close()
        elif self.is_due(step):  # else only the last step calls
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True

    def close(self) -> None:
        """Ends the trace if there is one."""
        if self._is_on:
            self._is_on = False
            jax.profiler.stop_trace()
