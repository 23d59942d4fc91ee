"""Runs binaries in processes forked from one that has imported everything: quickly.

A line of standard input is a JSON list of commands to run at once, each
`[binary, seconds to wait before, path of its output, *arguments]`; the answer is a line
with their exit statuses. JAX starts its devices in the forked processes only.
"""

import importlib
import json
import os
import pkgutil
import sys
import time
import traceback
import warnings

import elm_jax.runs
import tasks.pocket  # noqa: F401 - what gin files import


def run(binary, wait_secs, output, *arguments):
    """Runs a binary's program in this process; returns its exit status."""
    handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = [binary, *arguments]
    time.sleep(wait_secs)
    try:
        importlib.import_module(f"elm_jax.cli.{binary}").main()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    return 0


def fork(command):
    number = os.fork()
    if number:
        return number
    status = 70
    try:
        status = run(*command)
    except Exception:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main():
    for module in pkgutil.iter_modules(elm_jax.runs.__path__):
        importlib.import_module(f"elm_jax.runs.{module.name}")
    # No device has been started, so that there are no threads yet.
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    for line in sys.stdin:
        numbers = [fork(command) for command in json.loads(line)]
        waited = [os.waitpid(number, 0)[1] for number in numbers]
        print(json.dumps([*map(os.waitstatus_to_exitcode, waited)]), flush=True)


if __name__ == "__main__":
    main()
