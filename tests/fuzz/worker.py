"""Reads damaged inputs one after another and says what became of each.

Run as a program by `campaign`: a line `<format> <number>` comes in, a JSON line with
the class and what happened goes out. What kills this process is charged to its input.
"""

import contextlib
import gc
import io
import json
import os
import pathlib
import random
import re
import resource
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

from elm_jax import errors
from tests.fuzz import contract, formats, mutators

LIMIT_BYTES = 1 << 30  # beyond what the process needs before the input
ESCAPED = pathlib.Path("/tmp/elm_fuzz_escaped")  # noqa: S108 - must not appear
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Workshop:
    """Folders of one worker: valid inputs, the damaged one, and what must not change.

    Args:
      root: An empty folder. The input lies five levels below it, at `IN`.
      seed: Of all damage.
    """

    def __init__(self, root: pathlib.Path, seed: int) -> None:
        self._root, self._seed = root, seed
        self.work = root / "a/b/c/d/e"
        self.work.mkdir(parents=True)
        for folder in (root, *self.work.parents[:4], self.work):
            (folder / "sentinel").write_text("unchanged")
        self._valid: dict[str, contract.Valid] = {}

    def try_one(
        self, name: str, number: int, tell: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Returns what became of an input: its class, the damage, and a text.

        Args:
          name: Its format.
          number: Its number.
          tell: Told before it is read, and after.
        """
        chosen = formats.FORMATS[name]
        valid = self.prepare(name)
        rng = random.Random(f"{self._seed}/{name}/{number}")
        folder = self.work / "IN"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(valid.folders[0], folder)
        damage = mutators.damage(rng, folder, valid.folders[1], dict(chosen.damaged))
        before = self._outside()
        printed = io.StringIO()
        tell({"stage": "read", "damage": damage})
        os.environ["ELM_FUZZ_NUMBER"] = str(number)
        with _limited_memory():
            kind, message, value = _read(chosen, folder, printed)
        tell({"stage": "judge", "damage": damage})
        if kind == "right":
            kind, message = _judged(chosen, folder, value, valid, printed.getvalue())
        if self._outside() != before or ESCAPED.exists():
            kind, message = "outside", f"files changed around the input; it was {kind}"
            shutil.rmtree(ESCAPED, ignore_errors=True)
        return {"class": kind, "damage": damage, "message": message}

    def prepare(self, name: str) -> contract.Valid:
        """Makes, reads and judges the valid inputs of a format, when first needed.

        Raises:
          AssertionError: The format's own judge says that one is read wrong.
        """
        if name not in self._valid:
            chosen = formats.FORMATS[name]
            folders, values = [], []
            for variant in (0, 1):
                place = self._root / "valid" / name / str(variant) / "a/b/c/d/IN"
                place.mkdir(parents=True)
                chosen.make(place, variant)
                folder = self.work / "IN"
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(place, folder)
                with contextlib.redirect_stdout(io.StringIO()):
                    values.append(chosen.read(folder))
                folders.append(place)
            self._valid[name] = contract.Valid(tuple(folders), tuple(values))
            for folder, value in zip(folders, values, strict=True):
                wrong = chosen.judge(folder, value, self._valid[name])
                assert not wrong, f"{name}: the valid input is judged {wrong}"
            gc.freeze()  # what lives on, which each collection would look at
        return self._valid[name]

    def _outside(self) -> dict[str, tuple[int, int]]:
        """Returns size and time of every file around the input, valid ones aside."""
        facts_of = {}
        for place, names, files in os.walk(self._root):
            folder = pathlib.Path(place)
            if folder == self._root:
                names.remove("valid")
            if folder == self.work and "IN" in names:
                names.remove("IN")
            for file in (*files, *names):
                facts = os.lstat(folder / file)
                is_file = file in files
                key = str(folder / file)
                facts_of[key] = (
                    (facts.st_size, facts.st_mtime_ns) if is_file else (0, 0)
                )
        return facts_of


def _read(
    chosen: contract.Format, folder: pathlib.Path, printed: io.StringIO
) -> tuple[str, str, Any]:
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "right", "", chosen.read(folder)
    except errors.ElmError as error:
        return "typed", f"{type(error).__name__}: {error}"[:300], None
    except MemoryError as error:
        return "memory", f"MemoryError: {error}"[:300], None
    except BaseException as error:  # noqa: BLE001 - any other is the finding
        place = _place_of(error)
        return "raw", f"{type(error).__name__}: {error!s:.300} at {place}", None


def _place_of(error: BaseException) -> str:
    """Returns the last line of the project's own code that an error came through."""
    place, trace = "?", error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if "/elm_jax/" in path or "/tasks/" in path:
            place = f"{pathlib.Path(path).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _judged(
    chosen: contract.Format,
    folder: pathlib.Path,
    value: Any,
    valid: contract.Valid,
    printed: str,
) -> tuple[str, str]:
    control = _CONTROL.search(printed)
    if control:
        return "silent", f"printed the control character {control[0]!r}"
    try:
        wrong = chosen.judge(folder, value, valid)
    except Exception as error:  # noqa: BLE001 - an independent parser's own
        wrong = f"read what another parser refuses: {type(error).__name__} {error}"
    return ("silent", wrong[:600]) if wrong else ("right", "")


@contextlib.contextmanager
def _limited_memory() -> Any:
    """Bounds what the process may take beyond what it has: `LIMIT_BYTES`."""
    gc.collect()
    status = pathlib.Path("/proc/self/status").read_text()
    has = int(re.search(r"VmData:\s+(\d+)", status)[1]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (has + LIMIT_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def main() -> None:
    """Answers until its input ends; the arguments are a folder and a seed."""
    root, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what native code prints is no answer
    os.fsync = lambda handle: os.fstat(handle) and None  # no power fails here
    workshop = Workshop(root, seed)
    os.chdir(workshop.work)

    def tell(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    tell({"class": "ready"})
    for line in sys.stdin:
        name, number = line.split()
        tell(workshop.try_one(name, int(number), tell))


if __name__ == "__main__":
    main()
