"""What happens between steps: metrics are reported and states are saved.

In this order: a run that goes on drops reports of steps after its state, but could
not make up for one that a kill took away between saving and reporting. With a state
is saved what was summed for the next report.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from elm_jax.training import finite
from elm_jax.training.writers import MetricWriter
from elm_jax.types import Hook, Metrics

TIMES = ("data_wait_share", "steps_per_sec", "tokens_per_sec", "secs_left")
"""What a report says of the machine's speed; all else follows from seed and data."""

_SAVE_RATIO = 10.0  # time between two saves of slow steps, over that of saving


class StateStore(Protocol):
    """Keeps states; `checkpoints.train_state.TrainStateStore` is one.

    When `save` returns, the memory of the state may be given to the next step.
    """

    def save(self, step: int, state: Any, sums: Metrics) -> None: ...  # noqa: D102


def save_states(store: StateStore) -> Hook:
    """Returns a hook that gives the state, and sums of metrics, to the store."""

    def save(step: int, state: Any, metrics: Metrics) -> None:
        store.save(step, state, metrics)

    return save


def checked(hook: Hook, *, expert: str, last_good: finite.LastGood) -> Hook:
    """Returns a hook that is called with states that are finite.

    It raises TrainingError for others.

    Args:
      hook: Such as `save_states`.
      expert: Name of what trains, for the message.
      last_good: For the message.
    """

    def check(step: int, state: Any, metrics: Metrics) -> None:
        finite.check_state(state, step=step, expert=expert, last_good=last_good)
        hook(step, state, metrics)

    return check


class SaveSchedule:
    """When to save: after every so many steps, and after every slow step.

    A signal cannot wait for a slow step to end. Its work is then lost, but not the
    work of the steps before. Saving that takes long makes itself rare: it gets a
    tenth of the time at most.

    Args:
      every_steps: Period of saves in steps.
      hook: Saves.
      slow_secs: From which time on a step is slow.
      step_secs_fn: Returns what the last step took, where others lie between two steps
        of this training; by default the time between two notes.
      clock: Returns seconds; passed in so that tests need not wait.
    """

    def __init__(
        self,
        every_steps: int,
        hook: Hook,
        *,
        slow_secs: float,
        step_secs_fn: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_steps, self._hook = every_steps, hook
        self._slow_secs, self._clock = slow_secs, clock
        self._step_secs_fn = step_secs_fn
        self._last_step_at: float | None = None  # the first step compiles
        self._not_before = -math.inf
        self._saved_step = self._due_step = -1

    def note_step(self, step: int) -> None:
        """Notes that a step has ended, and decides whether to save after it."""
        now, last_step_at = self._clock(), self._last_step_at
        self._last_step_at = now
        if last_step_at is None:
            secs = 0.0
        else:
            secs = self._step_secs_fn() if self._step_secs_fn else now - last_step_at
        is_due = step % self._every_steps == 0
        if secs > self._slow_secs and now > self._not_before:
            is_due = True
        if is_due:
            self._due_step = step
            self._not_before = math.inf  # until it is saved, which may be later

    def is_due(self, step: int) -> bool:
        """Returns whether to save after this step, the last that was noted."""
        return step == self._due_step

    def hook(self, step: int, state: Any, metrics: Metrics) -> None:
        """Saves, unless that step has been saved."""
        if step == self._saved_step:
            return
        begun = self._clock()
        self._hook(step, state, metrics)
        self._saved_step = step
        self._last_step_at = self._clock()
        self._not_before = begun + _SAVE_RATIO * (self._last_step_at - begun)


class ReportMetrics:
    """A hook that turns sums over a window of steps into scalars and writes them.

    Args:
      writers: Where the scalars go.
      num_steps: At which the training is complete.
      learning_rate_fn: Rate of the update that follows a number of steps.
      waited_secs_fn: Time that the loop has waited for batches up to now.
      clock: Returns seconds; passed in so that tests need not wait.
    """

    def __init__(
        self,
        writers: Sequence[MetricWriter],
        *,
        num_steps: int,
        learning_rate_fn: Callable[[int], float] | None = None,
        waited_secs_fn: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writers, self._num_steps = writers, num_steps
        self._learning_rate_fn, self._clock = learning_rate_fn, clock
        self._waited_secs_fn = waited_secs_fn
        self._last_time, self._last_waited_secs = clock(), 0.0

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        """Writes the scalars of the steps since the last call."""
        del state
        now = self._clock()
        secs, self._last_time = now - self._last_time, now
        scalars = summarise(metrics)
        if self._learning_rate_fn is not None:
            scalars["learning_rate"] = self._learning_rate_fn(step - 1)
        if self._waited_secs_fn is not None:
            waited_secs = self._waited_secs_fn()
            waited_now = waited_secs - self._last_waited_secs
            self._last_waited_secs = waited_secs
            scalars["data_wait_share"] = min(1.0, waited_now / max(secs, 1e-9))
        steps_per_sec = metrics["num_steps"] / max(secs, 1e-9)
        scalars["steps_per_sec"] = steps_per_sec
        if "num_tokens" in metrics:
            scalars["tokens_per_sec"] = metrics["num_tokens"] / max(secs, 1e-9)
        scalars["secs_left"] = (self._num_steps - step) / steps_per_sec
        for writer in self._writers:
            writer.write(step, scalars)

    def close(self) -> None:
        """Closes the writers."""
        with contextlib.ExitStack() as closing:
            for writer in self._writers:
                closing.callback(writer.close)


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns means per step or token, by the sums over a window of steps.

    `loss` and `grad_norm` are means over the steps, `accuracy` is the share of
    weighted target tokens, `tokens_per_step` counts what is not padding and
    `real_token_share` is its share of all that is computed.

    >>> summarise({"num_steps": 2, "loss": 3.0, "correct_sum": 1, "weight_sum": 4})
    {'loss': 1.5, 'accuracy': 0.25}
    """
    num_steps = sums["num_steps"]
    means = {"loss": "loss", "grad_norm": "grad_norm", "num_tokens": "tokens_per_step"}
    scalars = {new: sums[n] / num_steps for n, new in means.items() if n in sums}
    if sums.get("weight_sum") and "correct_sum" in sums:
        scalars["accuracy"] = sums["correct_sum"] / sums["weight_sum"]
    if sums.get("num_positions"):
        scalars["real_token_share"] = sums["num_tokens"] / sums["num_positions"]
    return scalars
