import functools

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from elm_jax import trees
from elm_jax.training import optimizers, step
from elm_jax.training import state as state_lib
from tests.training import toy


def test_a_step_is_gradient_descent_on_the_trained_part_alone():
    state, frozen, step_fn = toy.start()
    params, batch = trees.join(state.params, frozen), jax.device_put(toy.batch_at(0))
    rng = jax.random.fold_in(jax.random.key(toy.SEED), 0)
    grads = jax.grad(lambda p: toy.loss_fn(p, batch, rng)[0])(params)
    grads, _ = trees.split(grads, toy.TRAINABLE)
    tx = optimizers.AdamW(learning_rate=0.1).make(toy.NUM_STEPS)
    updates, _ = tx.update(grads, tx.init(state.params), state.params)
    expected = optax.apply_updates(state.params, updates)
    new_state, metrics = step_fn(state, frozen, batch)
    for a, b in zip(*map(jax.tree.leaves, (new_state.params, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["grad_norm"], optax.global_norm(grads), rtol=1e-5
    )


def test_dropout_differs_by_step_and_by_nothing_else():
    state, frozen, step_fn = toy.start()
    batch = jax.device_put(toy.batch_at(0))
    again, _, _ = toy.start()
    state, first = step_fn(state, frozen, batch)
    _, same = step_fn(again, frozen, batch)
    assert float(first["loss"]) == float(same["loss"])
    _, second = step_fn(state, frozen, batch)
    assert float(first["loss"]) != float(second["loss"])


def test_nothing_of_the_frozen_part_is_in_state_or_program():
    state, frozen, _ = toy.start()
    assert not trees.flatten(frozen).keys() & trees.flatten(state.params).keys()
    tx, _ = toy.make_step()
    take = functools.partial(step.take_step, toy.loss_fn, tx)
    jaxpr = jax.make_jaxpr(take)(state, frozen, toy.batch_at(0))
    assert not [constant for constant in jaxpr.consts if np.size(constant) > 1]


def place(tree, mesh, *, shard_kernels):
    def put(leaf):
        parts = (None, None, "model") if shard_kernels and leaf.ndim == 3 else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*parts)))

    return jax.tree.map(put, tree)


@pytest.mark.parametrize("optimizer", [toy.ADAMW, optimizers.Adafactor()])
@pytest.mark.parametrize("shard_kernels", [False, True])
def test_over_eight_devices_one_program_keeps_every_array_in_its_place(
    optimizer, shard_kernels
):
    types = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    trained, frozen = trees.split(toy.make_params(), toy.TRAINABLE)
    trained = place(trained, mesh, shard_kernels=shard_kernels)
    frozen = place(frozen, mesh, shard_kernels=shard_kernels)
    tx = optimizer.make(toy.NUM_STEPS)
    now = state_lib.init_state(trained, tx, seed=0)
    before = jax.tree.map(lambda leaf: leaf.sharding, now)
    traced = []

    def traced_loss(*arguments):
        traced.append(1)
        return toy.loss_fn(*arguments)

    step_fn = step.make_train_step(traced_loss, tx)
    for n in range(3):
        now, _ = step_fn(now, frozen, jax.device_put(toy.batch_at(n)))
    assert len(traced) == 1
    assert jax.tree.map(lambda leaf: leaf.sharding, now) == before
    kernel = now.params["encoder"]["layers"]["adapter"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    assert kernel.sharding.is_fully_replicated != shard_kernels
    if optimizer is toy.ADAMW:
        moment = now.opt_state[1][0].mu["encoder"]["layers"]["adapter"]["kernel"]
        assert moment.sharding == kernel.sharding


def test_tokens_are_counted_without_padding_and_with_it():
    state, frozen, step_fn = toy.start()
    batch = toy.batch_at(0) | {
        "encoder_input_tokens": np.array([[5, 1, 0], [7, 7, 1]], np.int32),
        "decoder_target_tokens": np.array([[9, 1], [1, 0]], np.int32),
    }
    _, metrics = step_fn(state, frozen, batch)
    assert float(metrics["num_tokens"]) == 8
    assert float(metrics["num_positions"]) == 10
