"""Metrics on the host: checked to be finite, summed between two reports."""

import types
from collections.abc import Mapping

import jax

from elm_jax.training import finite
from elm_jax.types import Metrics


class Tally:
    """Sums of metrics over the steps since the last report.

    Args:
      expert: Name of what trains, for the message of a metric that is not finite.
      last_good: Names the newest saved state of at most so many steps, for the same
        message.
      sums: To begin with: those that were saved with the state of a training that
        goes on, so that its next report is of the steps that it would have been of.
    """

    def __init__(
        self,
        *,
        expert: str = "",
        last_good: finite.LastGood = finite.nothing_saved,
        sums: Mapping[str, float] = types.MappingProxyType({}),
    ) -> None:
        self._sums = dict(sums)
        self._expert, self._last_good = expert, last_good
        self._pending: tuple[int, Metrics] | None = None

    @property
    def sums(self) -> dict[str, float]:
        """The sums so far, of the metrics that have been read."""
        return dict(self._sums)

    def push(self, step: int, metrics: Metrics) -> None:
        """Takes the device's metrics of `step`, and reads those pushed before."""
        self.read()
        self._pending = (step, metrics)

    def read(self) -> None:
        """Waits for the metrics pushed last and adds them.

        Raises:
          TrainingError: One of them is not finite.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        self.add(step, {n: float(v) for n, v in jax.device_get(metrics).items()})

    def add(self, step: int, host: Mapping[str, float]) -> None:
        """Adds metrics that are on the host.

        Raises:
          TrainingError: One of them is not finite.
        """
        finite.check_metrics(
            host, step=step, expert=self._expert, last_good=self._last_good
        )
        for name, value in {**host, "num_steps": 1.0}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """Returns the sums and begins anew."""
        sums, self._sums = self._sums, {}
        return sums
