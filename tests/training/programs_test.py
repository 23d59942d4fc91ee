import numpy as np

from elm_jax.training import programs


def batch(length):
    return {"inputs": np.zeros((2, length)), "targets": np.zeros((2, 3))}


def test_a_new_shape_wants_a_save_if_the_last_new_one_was_slow():
    now = [0.0]
    compiled = programs.Programs(slow_secs=5.0, clock=lambda: now[0])

    def run(length, secs):
        with compiled.running(batch(length)):
            now[0] += secs

    assert not compiled.must_save_before(batch(8))  # nothing is known of the first
    run(8, 9.0)
    assert not compiled.must_save_before(batch(8))
    assert compiled.must_save_before(batch(9))
    compiled.note_saved()
    run(8, 1.0)  # no news of compiling
    assert compiled.must_save_before(batch(9))
    run(9, 1.0)
    assert not compiled.must_save_before(batch(10))


def test_a_new_shape_wants_a_save_if_much_work_is_unsaved():
    now = [0.0]
    compiled = programs.Programs(slow_secs=5.0, clock=lambda: now[0])
    with compiled.running(batch(8)):
        now[0] = 4.0
    assert not compiled.must_save_before(batch(9))
    now[0] = 6.0
    assert not compiled.must_save_before(batch(8))
    assert compiled.must_save_before(batch(9))
    assert compiled.must_save_before(batch(9))  # to ask changes nothing
    compiled.note_saved()
    assert not compiled.must_save_before(batch(10))


def test_a_call_that_fails_has_made_no_program():
    compiled = programs.Programs(slow_secs=-1.0)
    try:
        with compiled.running(batch(8)):
            raise ValueError
    except ValueError:
        pass
    with compiled.running(batch(9)):
        pass
    assert compiled.must_save_before(batch(8))
