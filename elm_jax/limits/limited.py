"""Work on strangers' files in a process of its own, within limits that it cannot move.

Templates, patterns and files of formats that native code reads may ask for work
without end, for all memory, or crash what reads them. Here that costs a small process,
which the operating system ends, and an error says which item it was.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Annotated, Any, BinaryIO

from elm_jax import errors, fields
from elm_jax.limits import limited_worker

Memory = Annotated[int, fields.Range(2**28)]
"""Bytes; below 256 MiB the libraries themselves may not fit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one row, file or pattern of a stranger may cost.

    Attributes:
      memory_bytes: Address space of the process, its libraries included.
      cpu_secs: Seconds of processor time, of each item.
      wall_secs: Seconds on the clock, of each item; on twice as many it is ended.
    """

    memory_bytes: Memory = 2**30
    cpu_secs: fields.Positive = 5.0
    wall_secs: fields.Positive = 60.0

    def __post_init__(self) -> None:
        fields.check(self)

    def __str__(self) -> str:
        """Returns the limits in words."""
        return (
            f"at most {self.cpu_secs:g} s of CPU, {self.wall_secs:g} s on the clock "
            f"and {self.memory_bytes:,} bytes of memory"
        )


DEFAULT = Limits()
_current = DEFAULT


def current() -> Limits:
    """Returns the limits of this process, which apply where a caller gives none."""
    return _current


def use(limits: Limits) -> None:
    """Sets the limits of this process."""
    global _current  # noqa: PLW0603 - one value for all callers, as with a locale
    _current = limits


class LimitError(errors.ElmError):
    """An item crossed a limit, or crashed what read it.

    Attributes:
      index: Place of the item among those given.
      reason: What happened, such as `it took more than 5 s of CPU`.
    """

    def __init__(self, index: int, reason: str, limits: Limits) -> None:
        super().__init__(
            found=f"item {index}: {reason}",
            expected=str(limits),
            do="Use another file, or raise the limits",
        )
        self.index, self.reason = index, reason


class WorkError(errors.ElmError):
    """The work itself raised for an item; the text is `Type: message`."""


class _EndedError(Exception):
    """The process ended.

    Attributes:
      place: Of the item that it was doing, in the request.
      reason: Why, in words.
      is_final: Whether a second try alone would end alike.
    """

    def __init__(self, place: int, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.place, self.reason, self.is_final = place, reason, is_final


class Worker:
    """A process that does work under limits; it is started when first needed.

    One thread at a time uses it. A process that ended is replaced by the next call.
    """

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._is_new = True  # whether the process was started for the last request

    def map(self, name: str, shared: Any, items: Sequence[Any]) -> list[Any]:
        """Returns what a function makes of each item.

        Args:
          name: `module:function`; the function is given `shared` once, and gives the
            function of an item. What that gives must be bytes, or JSON's.
          shared: What all items need; it and the items are pickled.
          items: What to do; each has the limits for itself.

        Raises:
          LimitError: An item crossed a limit; names the first that does.
          WorkError: The function raised for an item.
        """
        packed = pickle.dumps(shared)
        with self._lock:
            try:
                return self._all(name, packed, items)
            except _EndedError as error:
                if error.is_final:
                    raise self._limit_error(error.place, error.reason) from None
            # What earlier items left behind may have tipped it over: each alone.
            return [self._alone(name, packed, items, i) for i in range(len(items))]

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._end()

    def _all(self, name: str, packed: bytes, items: Sequence[Any]) -> list[Any]:
        done: list[Any] = []
        while len(done) < len(items):
            start = len(done)
            try:
                answers = self._ask(name, packed, items[start:])
            except _EndedError as error:
                error.place += start
                raise
            for kind, *rest in answers:
                if kind == limited_worker.MEMORY:
                    is_first = self._is_new and not done
                    self._end()  # what is left of its memory may be in pieces
                    reason = "it needed more memory"
                    raise _EndedError(len(done), reason, is_final=is_first)
                if kind == limited_worker.RAISED:
                    raise WorkError(*rest)
                done += rest
        return done

    def _alone(self, name: str, packed: bytes, items: Sequence[Any], index: int) -> Any:
        """Returns the outcome of one item; the second try is in a new process."""
        for is_last in (False, True):
            try:
                return self._all(name, packed, items[index : index + 1])[0]
            except _EndedError as error:
                if error.is_final or is_last:
                    raise self._limit_error(index, error.reason) from None
        raise AssertionError  # the second try returns or raises

    def _limit_error(self, index: int, reason: str) -> LimitError:
        return LimitError(index, reason, self.limits)

    def _ask(self, name: str, packed: bytes, items: Sequence[Any]) -> list[Any]:
        self._is_new = self._process is None
        if self._process is None:
            self._process = _Process(self.limits)
        request = pickle.dumps((name, packed, list(items), self.limits.cpu_secs))
        try:
            return self._process.ask(request)
        except _EndedError as error:
            self._end()
            error.is_final |= self._is_new and error.place == 0
            raise

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
        self._process = None


class _Process:
    """One process of `limited_worker`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._place = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `_close`
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._place.write(limited_worker.PLACE.pack(-1))
        self._place.flush()
        place = self._place.fileno()
        root = str(pathlib.Path(__file__).parents[2])
        code = (
            "import sys; sys.path[:] = sys.argv[3:]; "
            "from elm_jax.limits import limited_worker; "
            "limited_worker.main(int(sys.argv[1]), int(sys.argv[2]))"
        )
        path = [root, *(entry for entry in sys.path if os.path.isabs(entry))]
        # Without the site module and the environment it starts in half the time, and
        # has nothing to tell of either.
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", code]
        self._child = subprocess.Popen(  # noqa: S603 - a fixed command
            [*command, str(limits.memory_bytes), str(place), *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=(place,),
            cwd="/",
            env={**_ENVIRONMENT, **_loading()},
        )
        files = (self._place, self._errors, self._child.stdin, self._child.stdout)
        self.close = weakref.finalize(self, _close, self._child, files, os.getpid())

    def ask(self, request: bytes) -> list[Any]:
        """Returns the answers to a request; raises _EndedError."""
        stdin = self._child.stdin
        assert stdin is not None  # noqa: S101 - for type checkers
        try:
            stdin.write(limited_worker.HEADER.pack(len(request)) + request)
            stdin.flush()
            head = self._read(limited_worker.ANSWERS.size)
            size, num_bytes = limited_worker.ANSWERS.unpack(head)
            content = self._read(size + num_bytes)
        except (EOFError, BrokenPipeError):
            raise self._ended() from None
        answers = json.loads(content[:size].decode("utf-8", "surrogatepass"))
        for answer in answers:
            if answer[0] == limited_worker.BYTES:
                answer[1] = content[size : size + answer[1]]
                size += len(answer[1])
        return answers

    def _read(self, size: int) -> bytes:
        """Returns this many bytes of the answers.

        Raises:
          EOFError: The process ended before.
          _EndedError: It took too long.
        """
        stdout = self._child.stdout
        assert stdout is not None  # noqa: S101 - for type checkers
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        content = bytearray()
        since, place = time.monotonic(), self._doing()
        while len(content) < size:
            if poll.poll(self._limits.wall_secs * 1000):
                some = os.read(stdout.fileno(), min(size - len(content), 1 << 20))
                if not some:
                    raise EOFError
                content += some
                continue
            now = self._doing()
            if now != place:
                since, place = time.monotonic(), now
            elif time.monotonic() - since >= self._limits.wall_secs:
                reason = f"it took more than {self._limits.wall_secs:g} s on the clock"
                raise _EndedError(max(place, 0), reason, is_final=True)
        return bytes(content)

    def _doing(self) -> int:
        size = limited_worker.PLACE.size
        return limited_worker.PLACE.unpack(os.pread(self._place.fileno(), size, 0))[0]

    def _ended(self) -> _EndedError:
        """Returns why the process ended by itself."""
        code, place = self._child.wait(), self._doing()
        if code == -signal.SIGPROF:
            reason = f"it took more than {self._limits.cpu_secs:g} s of CPU"
            return _EndedError(max(place, 0), reason, is_final=True)
        if code < 0:
            with contextlib.suppress(ValueError):
                reason = f"what reads it crashed ({signal.Signals(-code).name})"
                return _EndedError(max(place, 0), reason)
        self._errors.seek(0)
        lines = self._errors.read()[-4000:].decode("utf-8", "replace").splitlines()
        reason = f"its process ended with status {code}: {' '.join(lines[-1:])}"
        return _EndedError(max(place, 0), reason)


# One thread each: libraries that start one per core take address space for all.
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def _loading() -> dict[str, str]:
    """Returns where the system finds libraries, as it does here."""
    names = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH")
    return {name: os.environ[name] for name in names if name in os.environ}


def _close(
    child: subprocess.Popen[bytes], files: Sequence[BinaryIO | Any], owner: int
) -> None:
    if os.getpid() != owner:  # a fork's copy; the process is its parent's
        return
    child.kill()
    child.wait()
    for file in files:
        with contextlib.suppress(OSError):  # what could not be written any more
            file.close()


def worker(limits: Limits | None = None) -> Worker:
    """Returns this process's worker with such limits; all callers share it.

    Args:
      limits: None for `current`.
    """
    return _worker(limits or current(), os.getpid())


@functools.lru_cache(maxsize=8)
def _worker(limits: Limits, process_id: int) -> Worker:
    del process_id  # Part of the key: a fork starts its own.
    return Worker(limits)
