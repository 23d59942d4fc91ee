"""All that changes while an expert trains, as one tree."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    params: Params,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    keeps_params: bool = True,
) -> TrainState:
    """Returns the state before the first step, on the devices of `params`.

    Args:
      params: What is to train. Copied, because a step gives its state's memory to
        the next one and the caller may still need the original.
      tx: The optimiser.
      seed: The seed of dropout.
      keeps_params: False if the caller does not: the state takes the memory of
        `params`, which are no longer valid.
    """
    on_device = jax.tree.map(jnp.asarray, dict(params))
    rng = np.asarray(jax.random.key_data(jax.random.key(seed)))
    places = jax.tree.map(lambda leaf: leaf.sharding, plan_state(on_device, tx))
    leaves, structure = jax.tree.flatten(places)
    begin = _compile(keeps_params, structure, tuple(leaves))
    return begin(tx, on_device, rng)


def plan_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
    """Returns the shapes of `init_state`, each with its sharding; computes nothing.

    Optimiser state that has the shape of a parameter lies where the parameter
    does, and state that lacks one of its axes, such as Adafactor's, where the
    others do; the rest, which is small, is replicated.

    Args:
      params: Arrays, or shapes with shardings; the mesh need not exist.
      tx: The optimiser.
    """

    def plain(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    rng = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    shapes = _plan(tx, jax.tree.map(plain, dict(params)), rng)
    by_name = trees.flatten(params)
    replicated = _replicate(next(iter(by_name.values())).sharding)

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        parts = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        param = _find_param(parts, by_name)
        sharding = None if param is None else _sharding_like(leaf.shape, param)
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding or replicated
        )

    return jax.tree_util.tree_map_with_path(place, shapes)


@functools.lru_cache(maxsize=32)
def _compile(keeps_params: bool, structure: Any, places: tuple[Sharding, ...]) -> Any:  # noqa: FBT001
    return jax.jit(
        _begin,
        static_argnums=0,
        donate_argnums=() if keeps_params else 1,
        out_shardings=jax.tree.unflatten(structure, places),
    )


def _begin(tx: optax.GradientTransformation, params: Params, rng: Any) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        rng=rng,
    )


_plan = jax.jit(_begin, static_argnums=0).eval_shape  # traces what is equal once


def _find_param(parts: Sequence[str], by_name: Mapping[str, Any]) -> Any | None:
    """Returns the parameter with the longest name that lies within a path."""
    for length in range(len(parts), 0, -1):
        for start in range(len(parts) - length + 1):
            param = by_name.get("/".join(parts[start : start + length]))
            if param is not None:
                return param
    return None


def _sharding_like(shape: tuple[int, ...], param: Any) -> Sharding | None:
    """Returns where a leaf lies that has the axes of a parameter, or all but one."""
    if shape == param.shape:
        return param.sharding
    sharding, rank = param.sharding, len(param.shape)
    if isinstance(sharding, NamedSharding):
        spec = (*sharding.spec, *(None,) * (rank - len(sharding.spec)))
        for axis in reversed(range(rank)):
            if shape == param.shape[:axis] + param.shape[axis + 1 :]:
                rest_spec = PartitionSpec(*spec[:axis], *spec[axis + 1 :])
                return NamedSharding(sharding.mesh, rest_spec)
    return None


def _replicate(sharding: Sharding) -> Sharding:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding
