"""Keeps what Orbax says of errors out of the way of our own message.

A write that fails ends in one `CheckpointError`. Orbax logs its traceback before, once
for each thread and task that it stopped, which on a full disk are hundreds of lines.
"""

import functools
import logging
import sys
import warnings
from typing import Any

# A module of Orbax, a folder that it writes, and the format of its files.
_MARKS = ("/orbax/", "orbax-checkpoint-tmp", "OCDBT")


@functools.cache
def silence() -> None:
    """Leaves out, from now on, what Orbax logs of errors that it raises as well."""
    logging.getLogger("absl").addFilter(_is_of_others)
    logging.getLogger("asyncio").addFilter(_is_of_others)
    # Its tasks end with an event loop that TensorStore's threads still report to.
    former_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        is_late = (
            isinstance(unraisable.exc_value, RuntimeError) and unraisable.object is None
        )
        if not (is_late and str(unraisable.exc_value) == "Event loop is closed"):
            former_hook(unraisable)

    sys.unraisablehook = hook
    warnings.filterwarnings(
        "ignore", "coroutine '.*' was never awaited", RuntimeWarning
    )


def _is_of_others(record: logging.LogRecord) -> bool:
    """Returns whether a log record is no error of Orbax or of one of its tasks."""
    text = f"{record.pathname} {record.getMessage()}"
    return record.levelno < logging.ERROR or not any(mark in text for mark in _MARKS)
