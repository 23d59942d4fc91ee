"""Compiles programs in processes of their own, which may end as they like."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from elm_jax import errors
from elm_jax.compiling import targets, topology
from elm_jax.runs.compiling import programs, result

_CHILD = ("-m", "elm_jax.runs.compiling.child")
# Compilers of TPUs crashed on a step over 16 devices where threads had the usual 8 MiB.
_LARGE_STACKS = ("sh", "-c", 'ulimit -s "$(ulimit -H -s)"; exec "$@"', "sh")
_MOST_TOLD = 600  # characters of what a compiler said


def compile_program(
    program: programs.Program,
    target: targets.Target,
    *,
    text_path: str = "",
    keep_in: str = "",
    child: Sequence[str] = _CHILD,
) -> result.Compiled:
    """Returns what comes of compiling a program for a target.

    Args:
      program: What to compile.
      target: For what; its devices need not be here.
      text_path: File that gets the compiled program's text; "" for none.
      keep_in: Folder in which a run on the target finds the program; "" for none.
      child: Arguments of Python by which the process is started.

    Raises:
      MissingExtraError: Nothing here compiles for the target.
      ConfigError: The compiler failed, but not for lack of the target's memory; or the
        program was compiled and not kept.
    """
    topology.check_installed(target)
    request: dict[str, Any] = {
        "target": target.name,
        "program": program.to_json(),
        "text_path": text_path,
        "keep_in": keep_in,
    }
    environment = {
        **os.environ,
        **topology.environment(target),
        # Modules of users, such as adapters of their own, are found as here.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    # Flags for the devices of this machine mean nothing to other compilers.
    environment.pop("XLA_FLAGS", None)
    with subprocess.Popen(
        [*_LARGE_STACKS, sys.executable, *child],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            stdout, stderr = process.communicate(json.dumps(request))
        except BaseException:  # also Ctrl-C: leaving the `with` would wait for its end
            process.kill()
            raise
    if process.returncode:
        raise _failure(target, process.returncode, stderr)
    compiled = result.from_json(json.loads(stdout.splitlines()[-1]))
    if keep_in and compiled.memory is not None and not compiled.saved_as:
        raise errors.ConfigError(
            found=f"a program for {target.name} that JAX compiled and did not keep",
            expected=f"an entry of its compilation cache, for {keep_in}",
            do=f"Report this with what JAX said: {_last_line(stderr) or 'nothing'}",
        )
    return compiled


def _failure(target: targets.Target, status: int, stderr: str) -> errors.ConfigError:
    """Returns the error of a process that ended without a result."""
    do = "Report this with the text above, or try another batch, remat or target"
    if status < 0:
        name = signal.Signals(-status).name
        crash = f"a compiler for {target.name} that crashed ({name})"
        if name == "SIGKILL":
            crash = f"a compiler for {target.name} that was ended from outside"
            do = "Give this machine more memory: compiling a large model takes some GB"
    else:
        last = _last_line(stderr) or f"status {status}"
        crash = f"a compiler for {target.name} that failed: {last}"
    return errors.ConfigError(
        found=crash, expected="a compiled program, or that it does not fit", do=do
    )


def _last_line(text: str) -> str:
    """Returns the last line of a process's standard error, "" if it is empty."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:_MOST_TOLD] if lines else ""
