"""Stopping a training from outside: it saves first, then says that it was stopped.

A run that SIGTERM or SIGINT (Ctrl-C) stopped has saved its state and exits with
status 143 or 130, that is 128 plus the signal's number, as shells count; started
again it goes on. Status 0 means that the training is complete. A second signal
ends the process at once, without saving.
"""

import os
import signal
import types
from typing import Any, Self

_CAUGHT = (signal.SIGTERM, signal.SIGINT)
_SHELL_OFFSET = 128


class StopRequest:
    """Whether somebody asked this process to stop; a context of the main thread.

    Call it for the answer; within the context signals only set a flag, for a loop
    to look at between steps:

        with signals.StopRequest() as stop:
            state = loop.train(..., should_stop=stop)
        stop.exit_if_requested()
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _CAUGHT:
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_handlers()

    def __call__(self) -> bool:
        """Returns whether a signal has come."""
        return self._signal is not None

    def exit_if_requested(self) -> None:
        """Ends the program if a signal has come; to be called after saving.

        Raises:
          SystemExit: With status 143 after SIGTERM, 130 after SIGINT.
        """
        if self._signal is not None:
            raise SystemExit(_SHELL_OFFSET + self._signal)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self._signal = signal.Signals(number)
        self._restore_handlers()
        # Not print: the signal may have come in the middle of one.
        text = f"{self._signal.name}: saving after this step; once more quits at once\n"
        os.write(2, text.encode())

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
