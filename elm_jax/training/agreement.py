"""Joined processes stop together, at one step or apart: a signal to one stops all."""

import time
from collections.abc import Callable

from elm_jax.partitioning import messages, processes
from elm_jax.training import signals

_PERIOD_SECS = 2.0
_TOPIC = "stop"


class AgreedStop:
    """Whether any process was asked to stop; the same answer after the same step.

    For one process it is the request itself. Several ask each other every two
    seconds or so (`note_step`), after a step that they agreed on the last time; a
    process that asks waits until the others have come as far.

    Args:
      stop: What this process was asked.
      clock: Returns seconds; passed in so that tests need not wait.
    """

    def __init__(
        self,
        stop: signals.StopRequest,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop, self._clock = stop, clock
        self._agreed = 0
        self._period_steps = self._steps_left = 1
        self._asked_at = clock()

    def note_step(self) -> None:
        """Counts a step; asks the other processes when it is time to."""
        if not processes.are_several():
            return
        self._steps_left -= 1
        if self._steps_left == 0:
            self._ask()

    def is_requested(self) -> bool:
        """Returns whether to stop after the last step that was noted."""
        if not processes.are_several():
            return self._stop.is_requested()
        return self._agreed > 0

    def note_answered(self) -> None:
        """Says that this process ends by itself now; see `StopRequest`.

        Where there are several, it may still wait for one that is gone, so that the
        time to answer goes on.
        """
        if not processes.are_several():
            self._stop.note_answered()

    def exit_if_requested(self) -> None:
        """Ends the program if any process was asked to stop; to be called after saving.

        Raises:
          SystemExit: With the same status in all processes.
        """
        if not processes.are_several():
            self._stop.exit_if_requested()
            return
        if not self._agreed:  # a signal may have come after the last question
            self._ask()
        if self._agreed:
            raise SystemExit(signals.exit_status(self._agreed))

    def _ask(self) -> None:
        secs = max(1e-3, self._clock() - self._asked_at)
        proposed = max(1, int(self._period_steps * _PERIOD_SECS / secs))
        # From one step, which may have compiled, no further than tenfold at once.
        proposed = min(proposed, 10 * self._period_steps)
        answers = processes.exchange([self._stop.signal_number, proposed])
        self._agreed = int(answers[:, 0].max())
        self._period_steps = self._steps_left = int(answers[:, 1].min())
        self._asked_at = self._clock()


class PassedOnStop:
    """Whether this process, or one that works apart, was asked to stop.

    Each stops after its own step, and passes a signal on after it (`listen`); the
    others hear of it within two seconds or so, wait for nobody, and answer it as their
    own. For one process alone it is the request itself.

    Args:
      stop: What this process was asked.
      clock: Returns seconds; passed in so that tests need not wait.
    """

    def __init__(
        self,
        stop: signals.StopRequest,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop, self._clock = stop, clock
        self._look_at = clock()

    def listen(self) -> None:
        """Tells the other processes of a signal, or looks whether they tell of one."""
        if not processes.are_apart():
            return
        if self._stop.is_requested():
            pass_on(self._stop.signal_number)
        elif self._clock() >= self._look_at:
            self._look_at = self._clock() + _PERIOD_SECS
            number = passed_on()
            if number:
                self._stop.pass_on(number)

    def is_requested(self) -> bool:
        """Returns whether to stop now."""
        return self._stop.is_requested()


def pass_on(number: int) -> None:
    """Tells processes that work apart of a signal; 0 is none."""
    if number:
        messages.tell(_TOPIC, f"{number}")


def passed_on() -> int:
    """Returns the signal that a process told the others of, 0 for none."""
    return max(map(int, messages.read_all(_TOPIC).values()), default=0)
