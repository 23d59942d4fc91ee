import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elm_jax.training import optimizers, schedules

STEPS = 30


@pytest.mark.parametrize("warmup_steps", [0, 7])
@pytest.mark.parametrize("decay", ["linear", "constant"])
def test_rates_are_those_of_optax(warmup_steps, decay):
    optimizer = optimizers.AdamW(
        learning_rate=0.3, warmup_steps=warmup_steps, decay=decay
    )
    end = 0.0 if decay == "linear" else 0.3
    line = optax.linear_schedule(0.3, end, STEPS - warmup_steps)
    rise = optax.linear_schedule(0.0, 0.3, max(1, warmup_steps))
    expected = optax.join_schedules([rise, line], [warmup_steps])
    for step in range(STEPS + 3):
        with jax.numpy_dtype_promotion("standard"):
            expected_rate = float(expected(step))
        rate = optimizer.learning_rate_at(step, num_steps=STEPS)
        assert rate == pytest.approx(expected_rate, rel=1e-6, abs=1e-8)


def test_host_and_device_agree_on_every_bit_of_a_rate():
    schedule = optimizers.AdamW(learning_rate=1e-3, warmup_steps=3).schedule(STEPS)
    on_device = jax.jit(schedules.rate_at)
    for step in range(STEPS):
        rate = on_device(jax.tree.map(jnp.float32, schedule), jnp.int32(step))
        assert np.asarray(rate) == schedules.rate_at(schedule, step)


def test_one_program_serves_every_rate_and_length():
    params = {"x": jnp.ones(3)}
    tx = optimizers.AdamW(learning_rate=0.5, clip_norm=None).make(10)
    traced = []

    @jax.jit
    def update(state):
        traced.append(1)
        return tx.update(params, state, params)

    whole, _ = update(tx.init(params))
    optimizer = optimizers.AdamW(learning_rate=0.25, warmup_steps=2, decay="constant")
    state = schedules.set_schedule(tx.init(params), optimizer.schedule(7))
    none, state = update(state)
    half, _ = update(state)
    # Adam's first steps are the rate for a gradient that stays, to rounding of 1 - b2.
    np.testing.assert_allclose(whole["x"], -0.5, rtol=1e-4)
    np.testing.assert_array_equal(none["x"], 0)
    np.testing.assert_allclose(half["x"], -0.125, rtol=1e-4)
    assert len(traced) == 1
