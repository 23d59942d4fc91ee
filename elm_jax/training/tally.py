"""Metrics on the host: checked to be finite, summed between firings of each hook."""

import math
from collections.abc import Callable, Mapping

import jax

from elm_jax import errors
from elm_jax.types import Metrics


class Tally:
    """Sums of metrics, one window per hook.

    Args:
      num_windows: How many sums are kept and emptied apart from each other.
      expert: Name of what trains, for the message of a metric that is not finite.
      last_checkpoint: Names the newest checkpoint, for the same message.
    """

    def __init__(
        self,
        num_windows: int,
        *,
        expert: str = "",
        last_checkpoint: Callable[[], object] = lambda: None,
    ) -> None:
        self._windows: list[dict[str, float]] = [{} for _ in range(num_windows)]
        self._expert, self._last_checkpoint = expert, last_checkpoint
        self._pending: tuple[int, Metrics] | None = None

    def push(self, step: int, metrics: Metrics) -> None:
        """Takes the device's metrics of `step`, and reads those pushed before."""
        self.read()
        self._pending = (step, metrics)

    def read(self) -> None:
        """Waits for the metrics pushed last and adds them to every window.

        Raises:
          TrainingError: One of them is not finite.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        self.add(step, {n: float(v) for n, v in jax.device_get(metrics).items()})

    def add(self, step: int, host: Mapping[str, float]) -> None:
        """Adds metrics that are on the host to every window.

        Raises:
          TrainingError: One of them is not finite.
        """
        self._check_finite(step, host)
        for window in self._windows:
            for name, value in {**host, "num_steps": 1.0}.items():
                window[name] = window.get(name, 0.0) + value

    def take(self, window: int) -> dict[str, float]:
        """Returns a window's sums and empties it."""
        sums, self._windows[window] = self._windows[window], {}
        return sums

    def _check_finite(self, step: int, host: Mapping[str, float]) -> None:
        bad = [
            f"{name} = {value}"
            for name, value in host.items()
            if not math.isfinite(value)
        ]
        if not bad:
            return
        saved = self._last_checkpoint()
        raise errors.TrainingError(
            errors.explain(
                found=f"{', '.join(bad)} in step {step} of expert "
                f"{self._expert or '(unnamed)'}; step {step - 1} was finite",
                expected="finite metrics in every step",
                do="Lower the learning rate or clip_norm, or look at the batch of "
                f"step {step}. Last good checkpoint: {saved or 'none was saved'}",
            )
        )
