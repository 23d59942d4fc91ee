import pytest

from elm_jax.training import loop, profiling
from tests.training import toy


def train(hook, num_steps=toy.NUM_STEPS):
    state, frozen, step_fn = toy.start()
    return loop.train(
        state,
        frozen,
        step_fn=step_fn,
        batches=toy.batches(0),
        num_steps=num_steps,
        hooks=[hook],
    )


def traces(folder):
    return list(folder.glob("plugins/profile/*/*.xplane.pb"))


@pytest.mark.slow
def test_a_trace_holds_the_steps_by_their_number(tmp_path):
    train(profiling.ProfileSteps(tmp_path, start=2, stop=5))
    (path,) = traces(tmp_path)
    content = path.read_bytes()
    assert b"step_num" in content
    assert b"train" in content


@pytest.mark.slow
def test_a_training_that_ends_early_ends_the_trace(tmp_path):
    train(profiling.ProfileSteps(tmp_path, start=2, stop=500), num_steps=4)
    assert len(traces(tmp_path)) == 1


@pytest.mark.slow
def test_a_training_that_fails_ends_the_trace_with_close(tmp_path):
    profile = profiling.ProfileSteps(tmp_path, start=1, stop=500)
    profile.hook(1, None, {})
    profile.close()
    profile.close()
    assert len(traces(tmp_path)) == 1


def test_one_that_goes_on_after_those_steps_is_not_traced(tmp_path):
    profile = profiling.ProfileSteps(tmp_path, start=2, stop=5)
    assert [step for step in range(1, 9) if profile.is_due(step)] == [2, 3, 4]
    assert not profile.is_due(6)
    profile.hook(6, None, {})  # the last step calls every hook
    assert not traces(tmp_path)
