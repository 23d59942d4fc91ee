import concurrent.futures
import functools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from elm_jax import errors
from elm_jax.limits import limited

HERE = "tests.limits.limited_test"


def square(shared):
    return lambda item: item * item + (shared or 0)


def act(shared):
    """Does what an item says, in the process with limits."""
    del shared

    def do(item):
        what, number = item
        if what == "spin":
            end = time.process_time() + number
            while time.process_time() < end:
                pass
        elif what == "sleep":
            time.sleep(number)
        elif what == "hoard":
            return len(bytearray(number))
        elif what == "die":
            os.kill(os.getpid(), number)
        elif what == "leave":
            sys.exit(number)
        elif what == "shout":
            print("x" * number)
            os.write(1, b"x" * number)
        elif what == "raise":
            raise ValueError(f"number {number}")
        elif what == "answer":
            return "x" * number
        elif what == "fail once":
            return fail_once(number)
        return os.getpid()

    return do


@functools.cache
def seen():
    return set()


def fail_once(number):
    """Dies unless it is the first thing that this process does."""
    seen().add(number)
    if len(seen()) > 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))
    limits = limited.Limits(memory_bytes=2**28, cpu_secs=0.6, wall_secs=6.0)
    new_worker = limited.Worker(limits)
    yield new_worker
    new_worker.close()


def test_items_are_done_in_order_by_one_process(worker):
    assert worker.map(f"{HERE}:square", 1, range(5)) == [1, 2, 5, 10, 17]
    assert worker.map(f"{HERE}:square", None, [3]) == [9]
    first, second = worker.map(f"{HERE}:act", None, [("", 0)] * 2)
    assert [first] == worker.map(f"{HERE}:act", None, [("", 0)])
    assert first == second != os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (("spin", 9), "it took more than 0.6 s of CPU"),
        (("sleep", 99), "it took more than 6 s on the clock"),
        (("hoard", 2**29), "it needed more memory"),
        (("answer", 2**25), "it needed more memory"),
        (("die", signal.SIGSEGV), "what reads it crashed (SIGSEGV)"),
        (("die", signal.SIGABRT), "what reads it crashed (SIGABRT)"),
        (("die", signal.SIGKILL), "what reads it crashed (SIGKILL)"),
        (("leave", 3), "its process ended with status 3"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_crosses_a_limit_is_named_and_the_next_call_works(worker, item, reason):
    start = time.monotonic()
    with pytest.raises(limited.LimitError) as raised:
        worker.map(f"{HERE}:act", None, [("", 0)] * 3 + [item, ("", 0)])
    assert raised.value.index == 3
    assert raised.value.reason.startswith(reason)
    assert time.monotonic() - start < 60  # on a machine with much else to do
    assert worker.map(f"{HERE}:square", 0, [3]) == [9]


@pytest.mark.slow
def test_what_earlier_items_left_behind_fails_no_later_one(worker):
    items = [("fail once", i) for i in range(4)]
    assert worker.map(f"{HERE}:act", None, items) == [0, 1, 2, 3]


def test_what_the_work_prints_is_no_answer_and_what_it_raises_is_an_error(worker):
    (pid,) = worker.map(f"{HERE}:act", None, [("shout", 100_000)])
    with pytest.raises(limited.WorkError, match="ValueError: number 5"):
        worker.map(f"{HERE}:act", None, [("raise", 5)])
    for name in ("no_such:thing", f"{HERE}:no_such"):
        with pytest.raises(limited.WorkError, match="no_such"):
            worker.map(name, None, [1])
    assert worker.map(f"{HERE}:act", None, [("", 0)]) == [pid]


@pytest.mark.slow
def test_large_requests_and_answers_pass(worker):
    texts = worker.map(f"{HERE}:act", None, [("answer", 2**22)] * 10)
    assert [len(text) for text in texts] == [2**22] * 10
    assert worker.map(f"{HERE}:square", 0, [2.0] * 50_000) == [4.0] * 50_000


def test_threads_share_one_process(worker):
    worker.map(f"{HERE}:square", 0, [1.0])  # starts what the process needs
    before = threading.active_count()  # other tests may have left some
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda i: worker.map(f"{HERE}:square", i, range(50)), range(20)
        )
        assert [*answers] == [[n * n + i for n in range(50)] for i in range(20)]
    assert threading.active_count() <= before


def test_a_process_has_one_worker_for_the_same_limits():
    assert limited.worker() is limited.worker(limited.Limits())
    assert limited.worker() is not limited.worker(limited.Limits(cpu_secs=1))


def test_limits_have_ranges():
    for wrong in ({"memory_bytes": 1}, {"cpu_secs": 0}, {"wall_secs": -1.0}):
        with pytest.raises(errors.ConfigError, match=next(iter(wrong))):
            limited.Limits(**wrong)


@pytest.mark.slow
def test_the_process_ends_with_the_one_that_started_it():
    code = f"""
import os, sys, threading
sys.path.insert(0, {str(pathlib.Path(__file__).parents[2])!r})
from elm_jax.limits import limited
worker = limited.Worker()
print(*worker.map("{HERE}:act", None, [("", 0)]), flush=True)
work = lambda: worker.map("{HERE}:act", None, [("spin", 0.3)] * 1000)
threading.Thread(target=work).start()
os.kill(os.getpid(), {int(signal.SIGKILL)}) if sys.argv[1] == "kill" else os._exit(0)
"""
    for way in ("kill", "exit"):
        started = subprocess.run(
            [sys.executable, "-c", code, way],
            capture_output=True,
            text=True,
            check=False,
        )
        pid = int(started.stdout)
        deadline = time.monotonic() + 30
        while is_running(pid):
            assert time.monotonic() < deadline, started.stderr
            time.sleep(0.05)


def is_running(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] != "Z"


def test_the_process_imports_nothing_heavy(worker):
    heavy = worker.map(
        "tests.limits.limited_test:loaded", None, ["jax", "tensorflow", "seqio"]
    )
    assert heavy == [False] * 3


def loaded(shared):
    del shared
    return lambda name: name in sys.modules
