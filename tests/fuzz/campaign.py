"""Gives inputs to workers, ends those that take too long, and counts by class.

By hand, also to look at one input again:

    python -m tests.fuzz.campaign --count 20000 --done done.jsonl
    python -m tests.fuzz.campaign --only csv/17
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping

import psutil

from tests.fuzz import names

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = (*("right", "typed", "hang", "memory", "crash", "raw", "silent", "outside"),)
GOOD = ("right", "typed")
LIMIT_SECS = 10.0  # of CPU, children included, for one input
_START_SECS = 300.0  # of CPU, to start, and to make or judge an input
_WALL_SECS = 1800.0  # on the clock, as others may have the machine


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    format: str
    number: int
    kind: str
    damage: str = ""
    message: str = ""


class _Worker:
    """A process of `worker`; a new one when it has died."""

    def __init__(self, seed: int) -> None:
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="elm_fuzz_"))
        temporary = self._folder / "tmp"
        temporary.mkdir()
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(temporary),
            "HOME": str(temporary),
            "JAX_PLATFORMS": "cpu",
            "OMP_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONFAULTHANDLER": "",
        }
        (self._folder / "root").mkdir()
        self._errors = (self._folder / "stderr").open("wb+")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.fuzz.worker"),
                *(str(self._folder / "root"), str(seed)),
            ],
            cwd=ROOT,
            env=environment,
            bufsize=0,  # else lines wait where `select` does not see them
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        if self._answer()[0] != "answer":
            raise RuntimeError(f"no worker starts: {self._last_words()}")

    def try_one(self, name: str, number: int) -> Outcome:
        """Returns what became of an input; after a hang or crash this is dead."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {number}\n".encode())
        self._process.stdin.flush()
        kind, facts = self._answer()
        if kind == "answer":
            return Outcome(
                name, number, facts["class"], facts["damage"], facts["message"]
            )
        if facts["stage"] == "start":
            raise RuntimeError(f"{name}/{number} is not made: {self._last_words()}")
        message = facts["message"] if kind == "hang" else self._last_words()
        return Outcome(
            name, number, kind, facts["damage"], f"{facts['stage']}: {message}"
        )

    def close(self) -> None:
        """Ends the process and those that it has started; removes its folder."""
        process = (
            psutil.Process(self._process.pid) if self._process.poll() is None else None
        )
        for child in [*(process.children(recursive=True) if process else ())]:
            child.kill()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answer(self) -> tuple[str, dict[str, str]]:
        """Returns the worker's answer, or how it failed, at what and why."""
        assert self._process.stdout is not None
        facts = {"stage": "start", "damage": "", "message": ""}
        start, spent = time.monotonic(), self._cpu_secs()
        while True:
            if select.select([self._process.stdout], [], [], 0.25)[0]:
                line = self._process.stdout.readline()
                answer = json.loads(line) if line else {}
                if "class" in answer or not line:
                    return ("answer", answer) if line else ("crash", facts)
                facts |= answer
                start, spent = time.monotonic(), self._cpu_secs()
                continue
            is_read = facts["stage"] == "read"
            limits = (LIMIT_SECS if is_read else _START_SECS, _WALL_SECS)
            used = (self._cpu_secs() - spent, time.monotonic() - start)
            for what, secs, limit in zip(("CPU", "clock"), used, limits, strict=True):
                if secs > limit:
                    return "hang", facts | {
                        "message": f"more than {limit:g} s of {what}"
                    }

    def _cpu_secs(self) -> float:
        try:
            process = psutil.Process(self._process.pid)
            every = [
                process.cpu_times(),
                *(c.cpu_times() for c in process.children(True)),
            ]
            ended = (
                process.cpu_times().children_user + process.cpu_times().children_system
            )
            return sum(times.user + times.system for times in every) + ended
        except psutil.Error:
            return 0.0

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        text = (self._folder / "stderr").read_text(errors="replace").strip()
        return f"status {self._process.returncode}: {text[-400:]}"


def run(inputs: Iterable[tuple[str, int]], *, seed: int) -> Iterator[Outcome]:
    """Yields what became of inputs, given as format and number, one by one."""
    worker: _Worker | None = None
    try:
        for name, number in inputs:
            worker = worker or _Worker(seed)
            outcome = worker.try_one(name, number)
            if outcome.kind in ("hang", "crash"):
                worker.close()
                worker = None
            yield outcome
    finally:
        if worker is not None:
            worker.close()


def shared_out(count: int, chosen: Iterable[str]) -> list[tuple[str, int]]:
    """Returns so many inputs, shared out over all formats; those of the chosen ones.

    The formats take turns, so that a campaign that is stopped has tried all of them.
    """
    total = sum(names.SHARES.values())
    sizes = {name: round(count * names.SHARES[name] / total) for name in chosen}
    inputs = [(name, number) for name, size in sizes.items() for number in range(size)]
    return sorted(inputs, key=lambda numbered: (numbered[1] + 1) / sizes[numbered[0]])


def table(outcomes: Iterable[Outcome]) -> str:
    """Returns the figures by format and class."""
    counts: dict[str, collections.Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.format, collections.Counter())[outcome.kind] += 1
    total = sum(counts.values(), collections.Counter())
    lines = ["".join(f"{word:>9}" for word in ("inputs", *CLASSES)) + "  format"]
    for name, by_kind in [*sorted(counts.items()), ("all", total)]:
        cells = (sum(by_kind.values()), *(by_kind[kind] for kind in CLASSES))
        lines.append("".join(f"{cell:9,}" for cell in cells) + f"  {name}")
    return "\n".join(lines)


def failures(outcomes: Iterable[Outcome]) -> list[str]:
    """Returns a line for each input with a wrong outcome."""
    return [
        f"{outcome.format}/{outcome.number} {outcome.kind} ({outcome.damage}):"
        f" {outcome.message}"
        for outcome in outcomes
        if outcome.kind not in GOOD
    ]


def main() -> None:
    """Runs a campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="*", default=sorted(names.SHARES))
    parser.add_argument("--only", help="one input, as <format>/<number>")
    parser.add_argument("--done", type=pathlib.Path, help="outcomes so far; goes on")
    options = parser.parse_args()
    done: list[Outcome] = []
    if options.done and options.done.exists():
        done = [Outcome(**json.loads(line)) for line in options.done.open()]
    inputs = shared_out(options.count, options.formats)
    if options.only:
        name, _, number = options.only.partition("/")
        inputs = [(name, int(number))]
    seen: Mapping[tuple[str, int], Outcome] = {(o.format, o.number): o for o in done}
    for outcome in run([i for i in inputs if i not in seen], seed=options.seed):
        done.append(outcome)
        if options.done:
            with options.done.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
        if options.only or outcome.kind not in GOOD:
            print(*(failures([outcome]) or [outcome]), flush=True)
    print(table(done))
    sys.exit(1 if failures(done) else 0)


if __name__ == "__main__":
    main()
