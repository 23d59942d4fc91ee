"""Makes batches in a background thread while the device computes."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple

from elm_jax.types import Batch


class _Failure(NamedTuple):
    error: BaseException


class Prefetcher(Iterator[tuple[int, Batch]]):
    """Iterates over `(step, batch)`, which a thread makes in advance.

    Ends before `stop_step`. Use it as a context manager, or call `close`.

    Args:
      batch_fn: `step -> batch`, such as `Batches(...).batch`.
      start_step: First step.
      stop_step: Step before which to end; None for no end.
      depth: How many batches to hold ready, at least 1.
      put_fn: Applied to each batch in the thread, such as a transfer to the device.
    """

    def __init__(
        self,
        batch_fn: Callable[[int], Batch],
        start_step: int = 0,
        *,
        stop_step: int | None = None,
        depth: int = 2,
        put_fn: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self._batch_fn, self._put_fn = batch_fn, put_fn
        self._step, self._stop_step = start_step, stop_step
        self._ready: queue.Queue[tuple[int, Batch] | _Failure | None]
        self._ready = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._waited_secs = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def waited_secs(self) -> float:
        """Time since the start that the caller has spent waiting for data."""
        return self._waited_secs

    def __next__(self) -> tuple[int, Batch]:
        """Returns the next step and its batch; an error in the thread raises here."""
        if self._closed.is_set():
            raise StopIteration
        start = time.monotonic()
        item = self._ready.get()
        self._waited_secs += time.monotonic() - start
        if item is None:
            self.close()
            raise StopIteration
        if isinstance(item, _Failure):
            self.close()
            raise item.error
        return item

    def close(self) -> None:
        """Stops the thread and waits for it; may be called again."""
        self._closed.set()
        # The thread may be waiting for room in the queue.
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get_nowait()
            self._thread.join(timeout=0.01)

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        step = self._step
        try:
            while not self._closed.is_set() and step != self._stop_step:
                batch = self._batch_fn(step)
                self._ready.put((step, self._put_fn(batch) if self._put_fn else batch))
                step += 1
            self._ready.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            self._ready.put(_Failure(error))
