"""Starts a program: installs signal handlers, then imports what is slow to import."""

import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from elm_jax import printing
from elm_jax.training import signals

if TYPE_CHECKING:
    from elm_jax.runs.run import Run


def main(description: str | None, runs: "Callable[[], tuple[type[Run], ...]]") -> None:
    """Runs the program of a binary; see `gin_flags.main`.

    Args:
      description: What the binary does.
      runs: Returns the runs it knows.

    Exits as `gin_flags.main` does, and with 141 if the reader of its output has ended.
    """
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal's encoding lacks are shown as `\u2713`.
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    printing.escape_all()
    try:
        with signals.exit_on_signal():
            from elm_jax.cli import gin_flags

            try:
                gin_flags.main(description or "", *runs())
            finally:
                sys.stdout.flush()
    except BrokenPipeError:
        closed = [
            stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)
        ]
        if not closed:
            raise  # another pipe, for example to a program that this one started
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in closed:
            os.dup2(nowhere, stream.fileno())  # output that is flushed later goes there
        sys.exit(signals.exit_status(signal.SIGPIPE))


def _has_no_reader(stream: TextIO) -> bool:
    """Returns whether a stream is a pipe whose reader has ended, as `head` does."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
