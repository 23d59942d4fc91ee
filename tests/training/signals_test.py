"""Each case is a program of its own: the last resort ends the whole process."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from elm_jax.training import signals

ROOT = pathlib.Path(__file__).parents[2]
BOTH = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)

HEADER = """
import contextlib, signal, sys, time
import jax
from elm_jax.training import signals

# As long as anybody waits, on the device: no handler of Python's runs meanwhile.
spin = jax.jit(lambda x: jax.lax.while_loop(lambda x: x > 0, lambda x: x + 1.0, x))

@contextlib.contextmanager
def saying_left():
    try:
        yield
    finally:
        print("left", flush=True)

def ready():
    print("ready", flush=True)
"""
LOOP = """
with signals.exit_on_signal(), signals.StopRequest(grace_secs=2) as stop:
    ready()
    while not stop.is_requested():
        time.sleep(0.01)
    stop.note_answered()
    time.sleep(3)
    print("saved")
stop.exit_if_requested()
print("unreachable")
"""
ASKING = """
with signals.exit_on_signal(), signals.StopRequest(grace_secs=2) as stop:
    ready()
    while True:
        stop.is_requested()
        time.sleep(0.01)
"""
START_UP = """
with signals.exit_on_signal(), saying_left():
    ready()
    time.sleep(60)
"""
WITH_THREADS = """
import threading

def work():
    while True:
        spin(-1.0).block_until_ready()

with signals.exit_on_signal(), saying_left():
    for _ in range(2):
        threading.Thread(target=work).start()  # which an interpreter's end waits for
    ready()
    time.sleep(60)
"""
COMPILING = """
with signals.exit_on_signal(grace_secs=2), saying_left():
    ready()
    spin(1.0).block_until_ready()
"""
SLOW_STEP = """
with signals.exit_on_signal(), signals.StopRequest(grace_secs=2) as stop:
    ready()
    spin(1.0).block_until_ready()
"""
SAVING = """
with signals.exit_on_signal(), signals.StopRequest(grace_secs=1) as stop:
    def save():
        ready()
        time.sleep(4)
        print("saved")
    stop.waiting_for(save)()
    assert stop.is_requested()
stop.exit_if_requested()
"""
TWICE = """
with signals.exit_on_signal(), signals.StopRequest() as stop:
    ready()
    spin(1.0).block_until_ready()
"""


UNSTEPPED = """
with signals.exit_on_signal(), saying_left():
    with signals.StopRequest(has_unsaved=False) as stop:
        ready()
        time.sleep(60)
"""
UNSTEPPED_COMPILING = """
with signals.exit_on_signal(), signals.StopRequest(has_unsaved=False) as stop:
    ready()
    spin(1.0).block_until_ready()
"""
STEPPED = """
with signals.exit_on_signal(), signals.StopRequest(has_unsaved=False) as stop:
    stop.note_unsaved()
    ready()
    while not stop.is_requested():
        time.sleep(0.01)
    stop.waiting_for(time.sleep)(3)
    print("saved")
stop.exit_if_requested()
"""


SWALLOWED = """
class Garbage:
    def __del__(self):
        ready()
        time.sleep(60)

with signals.exit_on_signal():
    Garbage()
    print("unreachable")
"""


def run(body, *numbers):
    """Sends signals to a program once it is ready.

    Returns:
      Exit status, lines of output after `ready`, standard error, and seconds from
      the first signal to the end.
    """
    with subprocess.Popen(
        [sys.executable, "-c", HEADER + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.0)  # until it is at what comes after
        begun = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)  # or two would be heard as one
        try:
            output, printed = process.communicate(timeout=60)
        finally:
            process.kill()
        secs = time.monotonic() - begun
    return process.returncode, output.split(), printed, secs


@pytest.mark.slow
@BOTH
def test_a_loop_ends_by_itself_and_then_the_program(number, status):
    ended, output, printed, _ = run(LOOP, number)
    assert (ended, output) == (status, ["saved"])
    assert f"{number.name}: saving after this step" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
@BOTH
def test_at_start_up_a_signal_ends_the_program_in_good_order(number, status):
    ended, output, printed, secs = run(START_UP, number)
    assert (ended, output) == (status, ["left"])
    assert "leaving; what was saved is whole" in printed
    assert "Traceback" not in printed
    assert secs < signals.LEAVING_SECS


@pytest.mark.slow
@BOTH
def test_before_the_first_step_a_signal_ends_the_program_at_once(number, status):
    ended, output, printed, secs = run(UNSTEPPED, number)
    assert (ended, output) == (status, ["left"])
    assert f"{number.name}: nothing to save yet; leaving" in printed
    assert "Traceback" not in printed
    assert secs < signals.LEAVING_SECS


@pytest.mark.slow
def test_a_first_step_that_compiles_does_not_keep_the_program_from_ending():
    ended, _, printed, secs = run(UNSTEPPED_COMPILING, signal.SIGINT)
    assert ended == 130
    assert "nothing to save yet; leaving" in printed
    assert secs < 2 * signals.LEAVING_SECS


def test_after_the_first_step_a_signal_is_answered_by_saving():
    ended, output, printed, _ = run(STEPPED, signal.SIGTERM)
    assert (ended, output) == (143, ["saved"])
    assert "SIGTERM: saving after this step" in printed


@pytest.mark.slow
def test_a_signal_that_a_callback_swallows_ends_the_program_all_the_same():
    ended, output, printed, secs = run(SWALLOWED, signal.SIGINT)
    assert (ended, output) == (130, [])
    assert "Traceback" not in printed
    assert secs < signals.LEAVING_SECS


@pytest.mark.slow
def test_threads_at_work_do_not_keep_the_program_from_ending():
    ended, output, _, secs = run(WITH_THREADS, signal.SIGTERM)
    assert (ended, output) == (143, ["left"])
    assert secs < signals.GRACE_SECS


@pytest.mark.slow
def test_a_program_that_only_compiles_ends_in_time():
    ended, output, printed, secs = run(COMPILING, signal.SIGTERM)
    assert (ended, output) == (143, [])
    assert "not answered within 2 s" in printed
    assert 2 <= secs < 10


@pytest.mark.slow
def test_a_step_without_end_is_given_up_in_time():
    ended, _, printed, secs = run(SLOW_STEP, signal.SIGINT)
    assert ended == 130
    assert "not answered within 2 s" in printed
    assert 2 <= secs < 10


@pytest.mark.slow
def test_to_ask_whether_to_stop_is_no_answer():
    ended, _, printed, _ = run(ASKING, signal.SIGTERM)
    assert ended == 143
    assert "not answered within 2 s" in printed


@pytest.mark.slow
def test_a_save_under_way_is_waited_for():
    ended, output, _, secs = run(SAVING, signal.SIGTERM)
    assert (ended, output) == (143, ["saved"])
    assert secs > 3


@pytest.mark.slow
def test_a_second_signal_ends_the_program_at_once():
    ended, _, printed, secs = run(TWICE, signal.SIGTERM, signal.SIGTERM)
    assert ended == 143
    assert "quitting at once" in printed
    assert secs < signals.GRACE_SECS


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with signals.exit_on_signal(), signals.StopRequest() as stop:
        assert not stop.is_requested()
    assert before == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    stop.exit_if_requested()  # nothing was requested: goes on


def test_other_signals_are_not_heard():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        with signals.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not stop.is_requested()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [1]
