"""Progress lines tell rate and time left, and no more than is known."""

import io

from elm_jax.runs import progress


def lines(*calls, **options):
    """Returns the lines of calls (seconds, done, total)."""
    stream, now = io.StringIO(), [0.0]
    report = progress.Progress("read", clock=lambda: now[0], stream=stream, **options)
    for now[0], done, total in calls:
        report(done, total)
    return stream.getvalue().splitlines()


def test_a_line_tells_rate_and_time_left():
    assert lines((10, 20, 100)) == ["read: 20/100 examples, 2.0/s, 40 s left"]


def test_the_last_line_tells_the_time_taken():
    assert lines((1, 100, 100)) == ["read: 100/100 examples, 100.0/s, 1 s"]


def test_an_unknown_total_promises_nothing():
    assert lines((10, 20, 0)) == ["read: 20 examples, 2.0/s, 10 s so far"]


def test_bytes_are_shown_in_their_units():
    shown = lines((10, 20_000_000, 100_000_000), unit="bytes")
    assert shown == ["read: 20.00 MB/100.00 MB, 2.00 MB/s, 40 s left"]


def test_lines_keep_their_distance():
    assert len(lines((1, 1, 9), (2, 2, 9), (6, 3, 9), (7, 4, 9))) == 1
