import threading
import time

import pytest

from elm_jax.data import prefetch


def square(step):
    return {"value": step * step}


def test_steps_come_in_order_and_end():
    with prefetch.Prefetcher(square, 3, stop_step=7) as ready:
        assert [(s, b["value"]) for s, b in ready] == [
            (3, 9),
            (4, 16),
            (5, 25),
            (6, 36),
        ]


def test_at_most_depth_batches_are_made_ahead():
    made_steps = []

    def make(step):
        made_steps.append(step)
        return {}

    with prefetch.Prefetcher(make, depth=2) as ready:
        next(ready)
        time.sleep(0.2)
        assert len(made_steps) <= 4  # one taken, two ready, one waiting for room


def test_an_error_in_the_thread_raises_in_the_loop():
    def fail(step):
        if step == 2:
            raise ValueError("row 2")
        return {}

    with prefetch.Prefetcher(fail) as ready:
        next(ready)
        next(ready)
        with pytest.raises(ValueError, match="row 2"):
            next(ready)
        with pytest.raises(StopIteration):
            next(ready)


def test_closing_ends_the_thread():
    before = threading.active_count()
    ready = prefetch.Prefetcher(square)
    next(ready)
    ready.close()
    ready.close()
    assert threading.active_count() == before


def test_batches_are_put_in_the_thread():
    threads = set()

    def put(batch):
        threads.add(threading.current_thread())
        return {"put": batch["value"] + 1}

    with prefetch.Prefetcher(square, stop_step=3, put_fn=put) as ready:
        assert [b["put"] for _, b in ready] == [1, 2, 5]
    assert threading.current_thread() not in threads


def test_waiting_is_measured():
    def slow(step):
        time.sleep(0.05)
        return {}

    with prefetch.Prefetcher(slow, stop_step=4) as ready:
        assert ready.waited_secs == 0.0
        list(ready)
        assert ready.waited_secs > 0.15  # four batches, the first begun before


def test_who_takes_long_between_batches_does_not_wait():
    with prefetch.Prefetcher(square, stop_step=4) as ready:
        time.sleep(0.1)
        before = ready.waited_secs
        for _ in ready:
            time.sleep(0.05)
        assert ready.waited_secs - before < 0.1
