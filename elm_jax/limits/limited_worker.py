"""The process behind `limited.Worker`: reads work, does it under limits, answers.

It imports only what the work needs, so that it starts in a tenth of a second. What it
is given is pickled by the process that started it; what it gives back is JSON and plain
bytes, because that process believes nothing that was made of strangers' files.
"""

import contextlib
import gc
import importlib
import json
import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

HEADER = struct.Struct("<Q")
"""Length of the request that follows, in bytes."""
ANSWERS = struct.Struct("<QQ")
"""Lengths of what follows, in bytes: a JSON list of answers, and the parts of it that
are bytes themselves, one after the other."""
PLACE = struct.Struct("<q")
"""Place of the item that is being done; -1 before the first."""

# An answer above this is cut short, to go on in the next, so that the reader's memory
# stays small; one item's own result above it counts as too much memory.
MAX_ANSWER_BYTES = 1 << 25
_GARBAGE = 20_000  # objects, of which the collector looks for rings
_PARENT = os.getppid()
VALUE, BYTES, RAISED, MEMORY = "value", "bytes", "raised", "memory"


def main(memory_bytes: int, place_fd: int) -> None:
    """Does what comes in on the standard input until that ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who gives the work
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF,))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    last: tuple[Any, Callable[[Any], Any]] | None = None
    with contextlib.suppress(BrokenPipeError):  # nobody is there to be told
        while (request := _read(requests)) is not None:
            name, shared, items, cpu_secs = pickle.loads(request)  # noqa: S301 - ours
            if last is None or last[0] != (name, shared):
                # The first item pays for what all of them need.
                _begin(0, place_fd, cpu_secs)
                prepared = _prepare(name, shared)
                if last is None:
                    # Modules stay, and an item leaves little: look seldom.
                    gc.freeze()
                    gc.set_threshold(_GARBAGE)
                last = ((name, shared), prepared)
            parts = _answers(last[1], items, place_fd, cpu_secs)
            signal.setitimer(signal.ITIMER_PROF, 0)
            encoded = b"[" + b",".join(part for part, _ in parts) + b"]"
            raw = b"".join(content for _, content in parts)
            answers.write(ANSWERS.pack(len(encoded), len(raw)) + encoded + raw)
            answers.flush()
            os.pwrite(place_fd, PLACE.pack(-1), 0)


def _read(requests: BinaryIO) -> bytes | None:
    head = requests.read(HEADER.size)
    return requests.read(*HEADER.unpack(head)) if len(head) == HEADER.size else None


def _prepare(name: str, shared: bytes) -> Callable[[Any], Any]:
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
        return make(pickle.loads(shared))  # noqa: S301 - ours
    except Exception as error:  # noqa: BLE001 - told for each item
        return _Raiser(error)


class _Raiser:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, item: Any) -> Any:
        raise self._error


def _begin(place: int, place_fd: int, cpu_secs: float) -> None:
    """Notes which item begins, and sets the clock that ends this process."""
    if os.getppid() != _PARENT:  # nobody waits for the rest
        os._exit(0)
    os.pwrite(place_fd, PLACE.pack(place), 0)
    signal.setitimer(signal.ITIMER_PROF, cpu_secs)


def _answers(
    do: Callable[[Any], Any], items: list[Any], place_fd: int, cpu_secs: float
) -> list[tuple[bytes, bytes]]:
    """Returns the first items' answers, at best all: JSON and bytes of each."""
    parts: list[tuple[bytes, bytes]] = []
    total = 0
    for place, item in enumerate(items):
        _begin(place, place_fd, cpu_secs)
        try:
            part = _encoded(do(item))
            if sum(map(len, part)) > MAX_ANSWER_BYTES:
                part = _json([MEMORY]), b""
        except MemoryError:
            part = _json([MEMORY]), b""
        except Exception as error:  # noqa: BLE001 - the other side makes an error of it
            part = _json([RAISED, f"{type(error).__name__}: {error}"[:2000]]), b""
        total += sum(map(len, part))
        if total > MAX_ANSWER_BYTES and parts:
            break
        parts.append(part)
    return parts


def _encoded(value: Any) -> tuple[bytes, bytes]:
    if isinstance(value, bytes):
        return _json([BYTES, len(value)]), value
    return _json([VALUE, value]), b""


def _json(answer: list[Any]) -> bytes:
    # Halves of surrogate pairs stay what they are.
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "surrogatepass")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
