"""One line of progress for long work: done, rate and time left."""

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Prints at most one line every few seconds, and one at the end.

    Usable as a callback: `progress(done)` or `progress(done, total)`.

    Args:
      title: What is being done, such as `embed`.
      total: How many units there are; 0 if the callback will tell.
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
        self._last = now
        rate = done / max(now - self._start, 1e-9)
        left = (self._total - done) / rate if rate > 0 else float("inf")
        tail = f"{now - self._start:.0f} s" if finished else f"{left:.0f} s left"
        if self._unit == "bytes":
            amounts = f"{show_bytes(done)} of {show_bytes(self._total)}"
            amounts += f", {show_bytes(round(rate))}/s"
        else:
            amounts = f"{done}/{self._total} {self._unit}, {rate:.1f}/s"
        print(  # noqa: T201
            f"{self._title}: {amounts}, {tail}",
            file=self._stream or sys.stderr,
            flush=True,
        )


def show_bytes(count: int) -> str:
    """Returns a count of bytes with its unit.

    >>> show_bytes(5_700_000_000), show_bytes(12)
    ('5.70 GB', '12 bytes')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
