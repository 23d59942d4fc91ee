"""Runs the scripts of launch/, on a machine that has no cluster."""

import os
import pathlib
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"

# Programs in the background ignore SIGINT, and a bash that begins so cannot trap it.
_BASH = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("bash", ["bash", *sys.argv[1:]])
"""


class Machine:
    """A folder to be in, with programs that stand for those of a cluster."""

    def __init__(self, folder):
        self.folder = folder
        self._programs = folder / "bin"
        self._programs.mkdir()

    def add_program(self, name, text):
        path = self._programs / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def start(self, script, *arguments, start_new_session=False, **settings):
        names = ("HOME", "LANG")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        return subprocess.Popen(
            [sys.executable, "-c", _BASH]
            + [str(script if os.sep in str(script) else LAUNCH / script)]
            + [str(argument) for argument in arguments],
            cwd=self.folder,
            env={
                **environment,
                "PATH": f"{self._programs}:/usr/local/bin:/usr/bin:/bin",
                **{name: str(value) for name, value in settings.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )

    def run(self, script, *arguments, **settings):
        """Runs a script; returns its status and what it printed."""
        with self.start(script, *arguments, **settings) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(script, process.returncode, out, err)

    def lines(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)
