import numpy as np

from elm_jax.training import programs


def batch(length):
    return {"inputs": np.zeros((2, length)), "targets": np.zeros((2, 3))}


def test_a_new_shape_wants_a_save_if_the_last_new_one_was_slow():
    now = [0.0]
    known = programs.Programs(slow_secs=5.0, clock=lambda: now[0])

    def run(length, secs):
        with known.running(batch(length)):
            now[0] += secs

    assert not known.must_save_before(batch(8))  # nothing is known of the first
    run(8, 9.0)
    assert not known.must_save_before(batch(8))
    assert known.must_save_before(batch(9))
    known.note_saved()
    run(8, 1.0)  # no news of compiling
    assert known.must_save_before(batch(9))
    run(9, 1.0)
    assert not known.must_save_before(batch(10))


def test_a_new_shape_wants_a_save_if_much_work_is_unsaved():
    now = [0.0]
    known = programs.Programs(slow_secs=5.0, clock=lambda: now[0])
    with known.running(batch(8)):
        now[0] = 4.0
    assert not known.must_save_before(batch(9))
    now[0] = 6.0
    assert not known.must_save_before(batch(8))
    assert known.must_save_before(batch(9))
    assert known.must_save_before(batch(9))  # to ask changes nothing
    known.note_saved()
    assert not known.must_save_before(batch(10))


def test_a_call_that_fails_has_made_no_program():
    known = programs.Programs(slow_secs=-1.0)
    try:
        with known.running(batch(8)):
            raise ValueError
    except ValueError:
        pass
    with known.running(batch(9)):
        pass
    assert known.must_save_before(batch(8))
