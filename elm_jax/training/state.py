"""All that changes while an expert trains, as one tree."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from elm_jax import trees
from elm_jax.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Where a training stands; with seed and data it determines all that follows.

    Attributes:
      step: int32 scalar, updates done so far.
      params: What trains; the frozen rest of the model is not here.
      opt_state: State of the optimiser, for what trains only.
      rng: uint32 key data; dropout of a step is a function of it and the step.
    """

    step: Any
    params: Params
    opt_state: Any
    rng: Any


def init_state(
    params: Params, tx: optax.GradientTransformation, *, seed: int
) -> TrainState:
    """Returns the state before the first step, on the devices of `params`.

    Optimiser state that has the shape of a parameter lies where the parameter
    does; the rest, which is small, is replicated.

    Args:
      params: What is to train. Copied, because a step gives its state's memory to
        the next one and the caller may still need the original.
      tx: The optimiser.
      seed: Of dropout.
    """
    on_device = jax.tree.map(jnp.asarray, dict(params))
    rng = jax.random.key_data(jax.random.key(seed))
    shapes = jax.eval_shape(functools.partial(_begin, tx), on_device, rng)
    begin = jax.jit(
        _begin, static_argnums=0, out_shardings=_choose_places(shapes, on_device)
    )
    return begin(tx, on_device, rng)


def _begin(tx: optax.GradientTransformation, params: Params, rng: Any) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        rng=rng,
    )


def _choose_places(shapes: TrainState, params: Params) -> Any:
    """Returns a sharding for each leaf of a state."""
    named = trees.flatten(params)
    others = _replicate(next(iter(named.values())).sharding)

    def choose(path: Any, leaf: Any) -> Sharding:
        parts = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        for start in range(len(parts)):
            param = named.get("/".join(parts[start:]))
            if param is not None and param.shape == leaf.shape:
                return param.sharding
        return others

    return jax.tree_util.tree_map_with_path(choose, shapes)


def _replicate(sharding: Sharding) -> Sharding:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding
