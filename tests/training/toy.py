"""A linear model with a frozen and a trained layer: small, real, quick to compile."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import trees
from elm_jax.training import optimizers, state, step

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


@functools.cache
def make_step(optimizer=ADAMW, num_steps=NUM_STEPS):
    """Returns (optax transformation, step); kept, because compiling takes a second."""
    tx = optimizer.make(num_steps)
    return tx, step.make_train_step(loss_fn, tx)


def start(optimizer=ADAMW, *, num_steps=NUM_STEPS):
    """Returns (state, frozen, step_fn) of a training that has not begun."""
    trained, frozen = trees.split(make_params(), TRAINABLE)
    tx, step_fn = make_step(optimizer, num_steps)
    frozen = jax.tree.map(jnp.asarray, frozen)
    return state.init_state(trained, tx, seed=SEED), frozen, step_fn


def assert_same_bits(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    for a, b in leaves:
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
