"""A linear model with a frozen and a trained layer: small, real, quick to compile."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from elm_jax import trees
from elm_jax.training import fleet as fleet_lib
from elm_jax.training import hooks, optimizers, state, step

NUM_STEPS, SEED = 8, 3
TRAINABLE = "adapter"


def make_params():
    rng = np.random.default_rng(0)
    shapes = {
        "encoder/layers/dense/kernel": (2, 4, 4),
        "encoder/layers/adapter/kernel": (2, 4, 4),
        "head/adapter/bias": (4,),
    }
    leaves = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return trees.unflatten(leaves)


def loss_fn(params, batch, dropout_rng):
    hidden = batch["inputs"]
    layers = params["encoder"]["layers"]
    for n in range(2):
        kernel = layers["dense"]["kernel"][n] + layers["adapter"]["kernel"][n]
        hidden = jnp.tanh(hidden @ kernel)
    keep = jax.random.bernoulli(dropout_rng, 0.9, hidden.shape)
    output = jnp.where(keep, hidden, 0.0) + params["head"]["adapter"]["bias"][None]
    loss = jnp.mean((output - batch["targets"]) ** 2)
    count = jnp.float32(batch["inputs"].shape[0])
    return loss, {"loss_sum": loss * count, "weight_sum": count}


def batch_at(n):
    """The batch after n steps: a function of (seed, n)."""
    rng = np.random.default_rng((SEED, n))
    names = ("inputs", "targets")
    return {name: rng.normal(size=(5, 4)).astype(np.float32) for name in names}


def batches(start, stop=10**6):
    for n in range(start, stop):
        yield n, jax.device_put(batch_at(n))


ADAMW = optimizers.AdamW(learning_rate=0.1)


def make_step(optimizer=ADAMW, num_steps=NUM_STEPS):
    """Returns (optax transformation, step); kept, because compiling takes a second."""
    is_quick = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    return _make_step(optimizer, num_steps, is_quick)


@functools.cache
def _make_step(optimizer, num_steps, is_quick):
    del is_quick  # bits of programs that were compiled in two ways may differ
    tx = optimizer.make(num_steps)
    return tx, step.make_train_step(loss_fn, tx)


def start(optimizer=ADAMW, *, num_steps=NUM_STEPS):
    """Returns (state, frozen, step_fn) of a training that has not begun."""
    trained, frozen = trees.split(make_params(), TRAINABLE)
    tx, step_fn = make_step(optimizer, num_steps)
    frozen = jax.tree.map(jnp.asarray, frozen)
    return state.init_state(trained, tx, seed=SEED), frozen, step_fn


def assert_same_bits(state, expected):
    leaves = zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True)
    for a, b in leaves:
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def make_mesh(num_devices=2, num_model=1):
    devices = jax.devices()[: num_devices * num_model]
    axes = {"data": num_devices} | ({"model": num_model} if num_model > 1 else {})
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
        devices=devices,
    )


class CountingLoss:
    """The loss; `num_traces` is in how many programs it is so far."""

    def __init__(self):
        self.num_traces = 0

    def __call__(self, *arguments):
        self.num_traces += 1
        return loss_fn(*arguments)


def make_toy_fleet(num_lanes=1, num_slots=4, num_devices=2, loss_fn=loss_fn):
    """Returns (fleet, frozen)."""
    mesh = make_mesh(num_devices)
    example, frozen, _ = start()
    tx, _ = make_step()
    fleet = fleet_lib.Slots(
        loss_fn,
        tx,
        example=example,
        mesh=mesh,
        num_slots=num_slots,
        num_lanes=num_lanes,
    )
    return fleet, jax.device_put(frozen, NamedSharding(mesh, PartitionSpec()))


def metrics(folder):
    """Returns all that the file of metrics says, but for times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return [{n: row[n] for n in row if n not in hooks.TIMES} for row in rows]
