"""One line of progress for long work: done, rate and time left."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from elm_jax.partitioning import processes


class Progress:
    """Prints at most one line every few seconds, and one at the end.

    Usable as a callback: `progress(done)` or `progress(done, total)`.

    Args:
      title: What is being done, such as `embed`.
      total: How many units there are; 0 if the callback will tell, or nobody can.
      unit: What is counted, in the plural; `bytes` are shown as MB or GB.
      every_secs: Least time between two lines.
      clock: Returns seconds; passed in so that tests need not wait.
      stream: Where lines go; standard error if None.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int = 0,
        unit: str = "examples",
        every_secs: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._every_secs, self._clock = every_secs, clock
        self._stream = stream
        self._start = self._last = clock()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Reports that `done` of `total` units are finished."""
        self._total = self._total if total is None else total
        now = self._clock()
        finished = self._total > 0 and done >= self._total
        if now - self._last < self._every_secs and not finished:
            return
        if not processes.is_main():
            return
        self._last = now
        spent = now - self._start
        rate = done / max(spent, 1e-9)
        amounts = self._show(done)
        tail = f"{spent:.0f} s so far"
        if self._total > 0:
            amounts += f"/{self._show(self._total)}"
            secs_left = (self._total - done) / rate if rate > 0 else float("inf")
            tail = f"{spent:.0f} s" if finished else f"{secs_left:.0f} s left"
        unit = "" if self._unit == "bytes" else f" {self._unit}"
        speed = show_bytes(round(rate)) if self._unit == "bytes" else f"{rate:.1f}"
        print(  # noqa: T201
            f"{self._title}: {amounts}{unit}, {speed}/s, {tail}",
            file=self._stream or sys.stderr,
            flush=True,
        )

    def _show(self, count: int) -> str:
        return show_bytes(count) if self._unit == "bytes" else str(count)


def show_bytes(count: int) -> str:
    """Returns a count of bytes with its unit.

    >>> show_bytes(5_700_000_000), show_bytes(12)
    ('5.70 GB', '12 bytes')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
