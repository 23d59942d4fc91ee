"""What is made of each expert alone is the same on two threads as on one."""

import multiprocessing
import threading
import warnings

import numpy as np
import pytest

from elm_jax.merging import threads

ITEMS = range(40)
MANY = 1 << 30


def test_many_numbers_of_many_items_are_made_by_two_threads_in_their_order():
    meeting = threading.Barrier(2, timeout=30)
    by = []

    def work(item):
        if item < 2:
            meeting.wait()  # which one thread alone would never leave
        by.append(threading.get_ident())
        return item**2

    assert threads.each(work, ITEMS, numbers=MANY) == [item**2 for item in ITEMS]
    assert len(set(by)) == 2
    assert threading.get_ident() not in by


@pytest.mark.parametrize(("count", "numbers"), [(40, 1000), (3, MANY), (0, MANY)])
def test_few_items_or_numbers_are_made_where_they_are_asked_for(count, numbers):
    """Of few items two are much of all; and threads cost more than few numbers."""
    by = threads.each(lambda _: threading.get_ident(), range(count), numbers=numbers)
    assert by == [threading.get_ident()] * count


def test_two_items_are_made_by_two_threads_where_they_are_not_few():
    meeting = threading.Barrier(2, timeout=30)
    results = threads.each(lambda _: meeting.wait() < 2, range(2), numbers=MANY, few=2)
    assert results == [True, True]


def test_threads_warn_of_no_more_than_who_asks_them():
    def work(item):
        return float(np.float64(1e300) * np.float64(10.0**item))

    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("error")
        assert threads.each(work, ITEMS, numbers=MANY)[-1] == np.inf
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        threads.each(work, ITEMS, numbers=MANY)


def test_what_one_thread_raises_is_raised():
    def work(item):
        if item == 30:
            raise ValueError("item 30")
        return item

    with pytest.raises(ValueError, match="item 30"):
        threads.each(work, ITEMS, numbers=MANY)


def test_what_is_begun_leaves_one_thread_to_everything_else():
    is_over = threading.Event()
    begun = threads.begun(lambda event: event.wait(30), is_over)
    by = threads.each(lambda _: threading.get_ident(), ITEMS, numbers=MANY)
    is_over.set()
    assert begun.result()
    assert len(set(by)) == 1
    assert threading.get_ident() not in by


def test_what_is_begun_makes_alone_what_it_makes_of_each():
    """Two that waited for each other's threads would wait forever."""
    both = [
        threads.begun(
            lambda items: threads.each(
                lambda _: threading.get_ident(), items, numbers=MANY
            ),
            ITEMS,
        )
        for _ in range(2)
    ]
    for begun in both:
        assert len(set(begun.result(timeout=30))) == 1


def test_what_is_begun_warns_of_no_more_than_who_begins_it_and_raises_what_it_raises():
    with np.errstate(divide="ignore"):
        assert threads.begun(np.log, np.zeros(1)).result() == -np.inf
    with np.errstate(divide="raise"):
        begun = threads.begun(np.log, np.zeros(1))
    with pytest.raises(FloatingPointError):
        begun.result()


def _answer(answers):
    answers.put(sum(threads.each(int, ITEMS, numbers=MANY)))


@pytest.mark.filterwarnings("ignore:.*fork")  # JAX warns, and Python does
def test_a_process_that_is_forked_has_threads_of_its_own():
    threads.each(int, ITEMS, numbers=MANY)
    forking = multiprocessing.get_context("fork")
    answers = forking.SimpleQueue()
    process = forking.Process(target=_answer, args=(answers,))
    process.start()
    process.join(30)
    process.kill()
    assert process.exitcode == 0
    assert answers.get() == sum(ITEMS)
