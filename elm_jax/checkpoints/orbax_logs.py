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
    before = sys.unraisablehook

    def hook(told: Any) -> None:
        is_late = isinstance(told.exc_value, RuntimeError) and told.object is None
        if not (is_late and str(told.exc_value) == "Event loop is closed"):
            before(told)

    sys.unraisablehook = hook
    warnings.filterwarnings(
        "ignore", "coroutine '.*' was never awaited", RuntimeWarning
    )


def _is_of_others(record: logging.LogRecord) -> bool:
    """Returns whether a record is no error of Orbax or of a task of its."""
    told = f"{record.pathname} {record.getMessage()}"
    return record.levelno < logging.ERROR or not any(mark in told for mark in _MARKS)
