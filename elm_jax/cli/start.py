"""How a binary begins: what is slow to import comes after the handlers of signals."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from elm_jax.training import signals

if TYPE_CHECKING:
    from elm_jax.runs.run import Run


def main(description: str | None, runs: "Callable[[], tuple[type[Run], ...]]") -> None:
    """Runs the program of a binary; see `gin_flags.main`.

    Args:
      description: What the binary does.
      runs: Returns the runs it knows.
    """
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding lacks is shown as `\u2713`, and no error.
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    with signals.exit_on_signal():
        from elm_jax.cli import gin_flags

        gin_flags.main(description or "", *runs())
