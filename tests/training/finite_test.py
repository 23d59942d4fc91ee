import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import train_state
from elm_jax.training import finite, hooks, loop, optimizers, schedules
from tests.training import toy

# Its first update is the rate, and more with the decay of a parameter above 0.
TOO_FAST = optimizers.AdamW(
    learning_rate=3.4e38, weight_decay=1.0, decay="constant", clip_norm=None
)


def save_states(store):
    return hooks.checked(
        hooks.save_states(store), expert="ex", last_good=store.name_last_good
    )


def train(store, optimizer, *, num_steps, save_steps=100):
    """Trains on from what is stored."""
    state, frozen, step_fn = toy.start(optimizer)
    state = store.restore(state) or state
    rates = schedules.set_schedule(state.opt_state, optimizer.schedule(num_steps))
    state = dataclasses.replace(state, opt_state=rates)
    return loop.train(
        state,
        frozen,
        step_fn=step_fn,
        batches=toy.batches(int(state.step)),
        num_steps=num_steps,
        hooks=[loop.Every(save_steps, save_states(store))],
        expert="ex",
        last_good=store.name_last_good,
    )


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_each_tensor_with_a_number_that_is_not_finite_is_named(value, as_array):
    tree = {"a": {"b": np.ones(3, np.float32)}, "c": [np.ones(2, np.float32)] * 2}
    tree["step"] = np.int32(2**31 - 1)
    assert finite.find_not_finite(jax.tree.map(as_array, tree)) == []
    tree["c"] = [tree["c"][0], np.asarray([1.0, value], np.float32)]
    assert finite.find_not_finite(jax.tree.map(as_array, tree)) == ["c/1"]


def test_a_tensor_that_is_split_over_devices_is_looked_at_whole():
    mesh = jax.make_mesh((8,), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    values = np.ones(16, np.float32)
    values[11] = np.nan
    assert finite.find_not_finite({"a": jax.device_put(values, split)}) == ["a"]


def test_an_infinite_last_update_is_told_and_not_saved(tmp_path):
    store = train_state.TrainStateStore(tmp_path)
    with pytest.raises(errors.TrainingError) as caught:
        train(store, TOO_FAST, num_steps=1)
    assert "the update of step 1 of expert ex left numbers that are not finite" in str(
        caught.value
    )
    assert "params/" in str(caught.value)
    assert "its loss was finite" in str(caught.value)
    assert "Last good checkpoint: none was saved" in str(caught.value)
    assert store.latest_step() is None


def test_an_infinite_moment_is_told_although_the_parameters_are_finite(tmp_path):
    store = train_state.TrainStateStore(tmp_path)
    state = toy.start()[0]
    broken = jax.tree.map(lambda leaf: leaf / 0.0, state.opt_state[1][0].nu)
    moments = state.opt_state[1][0]._replace(nu=broken)
    inner = (moments, *state.opt_state[1][1:])
    bad = dataclasses.replace(state, opt_state=(state.opt_state[0], inner))
    with pytest.raises(errors.TrainingError, match="opt_state"):
        save_states(store)(1, bad, {})
    assert store.latest_step() is None


@pytest.mark.slow
def test_the_last_good_checkpoint_is_one_to_go_on_from_at_a_lower_rate(tmp_path):
    """A step is saved in whose parameters the next one's loss overflows."""
    wild = optimizers.AdamW(learning_rate=1e30, warmup_steps=4, decay="constant")
    store = train_state.TrainStateStore(tmp_path, keep_last=3)
    with pytest.raises(errors.TrainingError) as caught:
        train(store, wild, num_steps=8, save_steps=1)
    message = str(caught.value)
    assert store.steps() == [1, 2]  # the rate of the first update is 0
    assert "in step 3" in message
    newest = tmp_path / "2"
    assert f"Last good checkpoint: 1; remove {newest} to go on from it" in message
    store.close()
    newest.rename(tmp_path / "elsewhere")
    store = train_state.TrainStateStore(tmp_path)
    assert int(train(store, toy.ADAMW, num_steps=8).step) == 8
    assert store.latest_step() == 8
