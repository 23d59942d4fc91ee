"""Learning rates as data: one compiled program serves every rate and length.

A schedule's numbers lie in the state of the optimiser, so that each expert of a fleet
brings its own, and an expert trained alone runs the same operations.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Schedule(NamedTuple):
    """A rise from 0 to `rate`, then a line to `end_rate` at the last step.

    Attributes:
      rate: Rate at its highest.
      end_rate: Rate after the last step; `rate` for a constant one.
      warmup_steps: Steps of the rise, counted within all steps.
      num_steps: All steps.
    """

    rate: Any
    end_rate: Any
    warmup_steps: Any
    num_steps: Any


class ScheduleState(NamedTuple):
    """State of `scale_by_schedule`: int32 updates so far, float32 numbers."""

    count: Any
    schedule: Schedule


def rate_at(schedule: Schedule, step: Any) -> Any:
    """Returns the rate of the update that follows `step` finished ones.

    >>> rate_at(Schedule(1.0, 0.0, 10, 110), 60).item()
    0.5

    Args:
      schedule: Numbers, or float32 arrays.
      step: A count, or an int32 array.
    """
    xp: Any = jnp if isinstance(step, jax.Array) else np
    step, rate, end, warmup, last = (
        xp.asarray(value, xp.float32) for value in (step, *schedule)
    )
    unit, zero = xp.float32(1), xp.float32(0)
    share_left = unit - (step - warmup) / xp.maximum(last - warmup, unit)
    line = end + (rate - end) * xp.minimum(xp.maximum(share_left, zero), unit)
    return xp.where(step < warmup, rate * (step / xp.maximum(warmup, unit)), line)


def scale_by_schedule() -> optax.GradientTransformation:
    """Returns what multiplies updates by minus the rate, which its state tells.

    A new state has a rate of 0: see `starting_with` and `set_schedule`.
    """

    def init(params: Any) -> ScheduleState:
        del params
        return ScheduleState(jnp.zeros((), jnp.int32), _as_arrays(Schedule(0, 0, 0, 0)))

    def update(updates: Any, state: Any, params: Any | None = None) -> tuple[Any, Any]:
        del params
        rate = rate_at(state.schedule, state.count)
        updates = jax.tree.map(lambda u: u * -rate.astype(u.dtype), updates)
        return updates, state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


@functools.lru_cache(maxsize=64)
def starting_with(
    tx: optax.GradientTransformation, schedule: Schedule
) -> optax.GradientTransformation:
    """Returns `tx`, whose new states have a schedule; updates are the same function.

    Equal arguments get the same object, so that their programs are compiled once.
    """

    def init(params: Any) -> Any:
        arrays = _as_arrays(schedule)
        return _change(tx.init(params), lambda old: arrays)

    return optax.GradientTransformation(init, tx.update)


def set_schedule(opt_state: Any, schedule: Schedule) -> Any:
    """Returns the state of an optimiser that goes on with another schedule."""
    new = Schedule(*map(np.float32, schedule))
    return _change(opt_state, lambda old: Schedule(*map(_put_like, old, new)))


def _change(opt_state: Any, schedule_of: Callable[[Schedule], Schedule]) -> Any:
    """Returns a state with another schedule, made of the one that it has."""

    def is_part(node: Any) -> bool:
        return isinstance(node, ScheduleState)

    def change(node: Any) -> Any:
        if not is_part(node):
            return node
        return node._replace(schedule=schedule_of(node.schedule))

    return jax.tree.map(change, opt_state, is_leaf=is_part)


def _put_like(old: Any, new: np.float32) -> jax.Array:
    """Puts `new` on the devices of `old`, also where several hosts have them."""
    sharding = getattr(old, "sharding", None)
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(new, sharding)
    return jax.make_array_from_callback((), sharding, lambda _: np.asarray(new))


def _as_arrays(schedule: Schedule) -> Schedule:
    return Schedule(*(jnp.asarray(value, jnp.float32) for value in schedule))
