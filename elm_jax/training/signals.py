"""Stopping a training from outside: it saves first, then says that it was stopped.

A run that SIGTERM or SIGINT (Ctrl-C) stopped exits with status 143 or 130, that is 128
plus the signal's number, as shells count; started again it goes on. Status 0 means
that the training is complete. While an expert trains, the run saves before it exits;
before the first step is done there is nothing to save, and at any other time what was
saved is whole: it says so and leaves at once. A second signal ends the process in any
case.

Python runs a handler only between two instructions of the main thread, and while that
compiles or waits for a device there is none. So a thread watches as well: if a signal
is not answered within some seconds, it ends the process with the same status. What was
saved before is whole, and `hooks.SaveSchedule` sees to it that this is recent where
steps are slow.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import NoReturn, ParamSpec, Self

GRACE_SECS = 10.0
"""Time to answer a signal: less than what SLURM and Kubernetes give before SIGKILL."""

LEAVING_SECS = 2.0
"""Time to leave in good order where nothing is to be saved."""

_LEAVING = "leaving; what was saved is whole"
_LEAVING_UNSTEPPED = "nothing to save yet; leaving"
_SAVING = "saving after this step; once more quits at once"
_CAUGHT = (signal.SIGTERM, signal.SIGINT)
_SHELL_OFFSET = 128

_Args = ParamSpec("_Args")
_Handler = Callable[[int, types.FrameType | None], None]


class StopRequest:
    """Whether somebody asked this process to stop; a context of the main thread.

    Within the context signals only set a flag, for a loop to look at between steps:

        with signals.StopRequest() as stop:
            state = loop.train(
                ..., should_stop=stop.is_requested, answer_stop=stop.note_answered
            )
        stop.exit_if_requested()

    Without anything to save, until `note_unsaved` is called, a signal ends the program
    as in `exit_on_signal`.

    Args:
      grace_secs: Time from a signal until `note_answered`.
      has_unsaved: Whether there is something to save from the beginning, here or in
        another process, which is to hear of the signal.
    """

    def __init__(
        self, *, grace_secs: float = GRACE_SECS, has_unsaved: bool = True
    ) -> None:
        self._grace_secs, self._has_unsaved = grace_secs, has_unsaved
        self._signal: signal.Signals | None = None
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._watch = self._entered.enter_context(
            _handled(self._note, _LEAVING_UNSTEPPED, LEAVING_SECS)
        )
        if self._has_unsaved:
            self.note_unsaved()
        return self

    def __exit__(self, *_: object) -> None:
        self.note_answered()  # who leaves the context is about to end
        self._entered.close()

    def is_requested(self) -> bool:
        """Returns whether a signal has come."""
        return self._signal is not None

    def note_answered(self) -> None:
        """Says that this process ends by itself now, if a signal has come.

        It may take its time from then on, as saving does.
        """
        if self._signal is not None:
            self._watch.is_answered = True

    def note_unsaved(self) -> None:
        """Says that from now on there is something to save."""
        self._has_unsaved = True
        self._watch.text, self._watch.grace_secs = _SAVING, self._grace_secs

    def waiting_for(self, fn: Callable[_Args, None]) -> Callable[_Args, None]:
        """Returns `fn`, free to take its time after a signal, as saving is."""

        def call(*args: _Args.args, **kwargs: _Args.kwargs) -> None:
            self._watch.is_patient = True
            try:
                fn(*args, **kwargs)
            finally:
                self._watch.is_patient = False

        return call

    def exit_if_requested(self) -> None:
        """Ends the program if a signal has come; to be called after saving.

        Raises:
          SystemExit: With status 143 after SIGTERM, 130 after SIGINT.
        """
        if self._signal is not None:
            raise SystemExit(exit_status(self._signal))

    @property
    def signal_number(self) -> int:
        """The signal that has come, 0 for none."""
        return self._signal or 0

    def pass_on(self, number: int) -> None:
        """Treats a signal to another process like one to this process."""
        if self._signal is None:
            self._signal = signal.Signals(number)
            _say(f"{self._signal.name} to another process: saving after this step")

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self._signal = signal.Signals(number)
        _note_stopping()
        if not self._has_unsaved:
            raise SystemExit(exit_status(number))


def exit_status(number: int) -> int:
    """Returns the status of a program that a signal stopped, as shells count."""
    return _SHELL_OFFSET + number


def number_of(status: object) -> int:
    """Returns the signal that a status tells of, 0 for none.

    >>> number_of(143), number_of(1), number_of("an error")
    (15, 0, 0)
    """
    is_known = status in {exit_status(number) for number in _CAUGHT}
    return status - _SHELL_OFFSET if isinstance(status, int) and is_known else 0


@contextlib.contextmanager
def exit_on_signal(*, grace_secs: float = LEAVING_SECS) -> Iterator[None]:
    """Within the context, a signal ends the program unless a `StopRequest` holds it.

    What is under way in the main thread is left in good order, by SystemExit; then the
    process ends at once, with status 143 after SIGTERM and 130 after SIGINT. The
    interpreter's own end would wait for threads that compile, read or write, and may
    crash when it takes modules from under them.

    Args:
      grace_secs: Time after which the process ends even if it does not come to it.
    """

    def leave(number: int, frame: types.FrameType | None) -> None:
        del frame
        _note_stopping()
        raise SystemExit(exit_status(number))

    with _handled(leave, _LEAVING, grace_secs) as watch:
        try:
            yield
        except SystemExit as stop:
            if not watch.is_stopping or not isinstance(stop.code, int):
                raise
            sys.stdout.flush()
            sys.stderr.flush()
            watch.has_spoken.wait(LEAVING_SECS)
            os._exit(stop.code)


class _Watch:
    """A thread that hears of signals whatever the main thread does.

    Attributes:
      text: Said after the first signal.
      grace_secs: Time between signal and answer.
      is_answered: Whether the main thread is about to end by itself.
      is_stopping: Whether it knows of a signal; the thread may not have run yet.
      is_patient: Whether it does something now that must not be cut short.
      has_spoken: Set once the signal's name and `text` have been said.
      hook: What Python would do with an exception that cannot be raised.
    """

    def __init__(self, text: str, grace_secs: float) -> None:
        self.text, self.grace_secs = text, grace_secs
        self.is_answered = self.is_patient = self.is_stopping = False
        self.has_spoken = threading.Event()
        self.hook = sys.unraisablehook
        self._first: signal.Signals | None = None
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; not after a signal, as the process has yet to end."""
        if not self.is_stopping:
            signal.set_wakeup_fd(self._previous)
            os.close(self._writer)

    def end_if_swallowed(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Ends the process if a callback, such as one of garbage, took SystemExit."""
        stop = unraisable.exc_value
        if self.is_stopping and isinstance(stop, SystemExit):
            self.has_spoken.wait(LEAVING_SECS)
            os._exit(stop.code if isinstance(stop.code, int) else 1)
        self.hook(unraisable)

    def _run(self) -> None:
        deadline = None
        while True:
            secs_left = (
                None if deadline is None else max(0.0, deadline - time.monotonic())
            )
            if select.select([self._reader], [], [], secs_left)[0]:
                heard = os.read(self._reader, 1)
                if not heard:
                    os.close(self._reader)
                    return
                if heard[0] in _CAUGHT:
                    deadline = self._hear(signal.Signals(heard[0]))
            elif self.is_answered:
                deadline = None
            elif self.is_patient:
                deadline = time.monotonic() + self.grace_secs
            else:
                self._end(f"not answered within {self.grace_secs:g} s; the run ends")

    def _hear(self, number: signal.Signals) -> float:
        """Returns the deadline for an answer to a signal; a second one ends all."""
        if self._first is not None:
            self._end("quitting at once")
        self._first = number
        _say(f"{number.name}: {self.text}")
        self.has_spoken.set()
        return time.monotonic() + self.grace_secs

    def _end(self, text: str) -> NoReturn:
        assert self._first is not None
        _say(f"{self._first.name}: {text}; what was saved is whole")
        os._exit(_SHELL_OFFSET + self._first)


_watches: list[_Watch] = []
"""The watch of this process, if there is one: contexts within others share it."""


def _note_stopping() -> None:
    for watch in _watches:
        watch.is_stopping = True


@contextlib.contextmanager
def _handled(handler: _Handler, text: str, grace_secs: float) -> Iterator[_Watch]:
    """Sets handlers and the watch's text; restores the former ones at the end."""
    is_outermost = not _watches
    if is_outermost:
        _watches.append(_Watch(text, grace_secs))
    watch = _watches[0]
    former_values = watch.text, watch.grace_secs
    watch.text, watch.grace_secs = text, grace_secs
    handlers = {number: signal.signal(number, handler) for number in _CAUGHT}
    hook, sys.unraisablehook = sys.unraisablehook, watch.end_if_swallowed
    watch.hook = hook if is_outermost else watch.hook
    try:
        yield watch
    finally:
        sys.unraisablehook = hook
        for number, old in handlers.items():
            signal.signal(number, old)
        if not watch.is_stopping:  # its thread may have yet to say what held then
            watch.text, watch.grace_secs = former_values
        if is_outermost:
            _watches.clear()
            watch.close()


def _say(text: str) -> None:
    # Not print: the main thread may be in the middle of one.
    os.write(2, f"{text}\n".encode())
