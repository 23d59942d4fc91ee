"""Programs as forks of one process that has imported all that is slow to import.

An interpreter takes seconds to import JAX, Orbax and this project; a fork takes none.
The process that is forked has touched no device. There is one for all tests of a run,
as the first that is asked for is the only one, so that what it imports stands here.
"""

import atexit
import gc
import importlib
import multiprocessing
import os
import pathlib
import sys
import time

import elm_jax.runs

BINARIES = ("train", "library", "eval", "merge", "convert", "report", "tasks")
_PROGRAMS = ("tests.training.killed_run", "tests.training.together_run")


def context():
    """Returns what starts processes: its `Process` is that of `multiprocessing`."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(
        [f"elm_jax.cli.elm_{name}" for name in BINARIES]
        + [f"elm_jax.runs.{name}" for name in _modules_of_runs()]
        + ["tests.forks", "tests.readmes", "tests.runs.binaries", "tasks.pocket"]
        + [*_PROGRAMS]
    )
    return forking


def _modules_of_runs():
    folder = pathlib.Path(elm_jax.runs.__path__[0])
    return sorted(path.stem for path in folder.glob("[a-z]*.py"))


def seek_less_garbage():
    """Looks for garbage less often: what was imported is none, nor are traces."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Program:
    """A module's `main` as a process.

    Args:
      module: Its name.
      arguments: Of `main`.
      output: A file for what it prints, which must not be there.
    """

    def __init__(self, module, arguments, output):
        self._output = output
        output.touch(exist_ok=False)
        self._process = context().Process(
            target=_run, args=(module, arguments, str(output)), daemon=True
        )
        self._process.start()

    def send(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        self._process.kill()

    def wait_for(self, line):
        """Waits until a line is printed."""
        while f"\n{line}\n" not in f"\n{self.text()}":
            assert self._process.is_alive(), f"{line} did not come; {self.text()}"
            time.sleep(0.002)

    def wait(self, most_secs):
        """Returns the exit status, which has to come in time."""
        self._process.join(most_secs)
        assert self._process.exitcode is not None, self.text()
        return self._process.exitcode

    def text(self):
        return self._output.read_text()

    def lines(self):
        return self.text().splitlines()


def _run(module, arguments, output):
    with open(output, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    seek_less_garbage()
    try:
        importlib.import_module(module).main(*arguments)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # as an interpreter does
