import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from elm_jax import trees
from elm_jax.model import config, loss, t5
from elm_jax.training import optimizers, step
from elm_jax.training import state as state_lib
from tests import drawn
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
    take = functools.partial(step.take_step, toy.loss_fn, tx.update)
    jaxpr = jax.make_jaxpr(take)(state, frozen, toy.batch_at(0))
    assert not [constant for constant in jaxpr.consts if np.size(constant) > 1]


def place(tree, mesh, *, shard_kernels):
    def put(leaf):
        parts = (None, None, "model") if shard_kernels and leaf.ndim == 3 else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*parts)))

    return jax.tree.map(put, tree)


@pytest.mark.slow
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
    loss_fn = toy.CountingLoss()
    step_fn = step.make_train_step(loss_fn, tx)
    for n in range(3):
        now, _ = step_fn(now, frozen, jax.device_put(toy.batch_at(n)))
    assert loss_fn.num_traces == 1
    assert jax.tree.map(lambda leaf: leaf.sharding, now) == before
    kernel = now.params["encoder"]["layers"]["adapter"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    assert kernel.sharding.is_fully_replicated != shard_kernels
    if optimizer is toy.ADAMW:
        moment = now.opt_state[1][0].mu["encoder"]["layers"]["adapter"]["kernel"]
        assert moment.sharding == kernel.sharding


@pytest.mark.parametrize(
    "make", [optimizers.AdamW, optimizers.Adafactor], ids=["adamw", "adafactor"]
)
def test_trainings_that_differ_in_rate_and_length_alone_share_a_program(make):
    loss_fn, ends = toy.CountingLoss(), []
    for rate, num_steps in ((0.1, 4), (0.2, 4), (0.1, 8), (0.1, 4)):
        tx = make(learning_rate=rate, warmup_steps=2).make(num_steps)
        trained, frozen = trees.split(toy.make_params(), toy.TRAINABLE)
        now = state_lib.init_state(trained, tx, seed=0)
        step_fn = step.make_train_step(loss_fn, tx)
        for n in range(3):
            now, _ = step_fn(now, frozen, toy.batch_at(n))
        ends.append(jax.device_get(now))
    assert loss_fn.num_traces == 1
    toy.assert_same_bits(ends[3], ends[0])
    kernels = [end.params["encoder"]["layers"]["adapter"]["kernel"] for end in ends]
    assert not np.array_equal(kernels[1], kernels[0])
    other = make(clip_norm=0.25).make(4)
    step.make_train_step(loss_fn, other)(now, frozen, toy.batch_at(0))
    assert loss_fn.num_traces == 2


SHAPE = config.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def t5_batch():
    """Six rows of unequal weights; every third has none."""
    rng = np.random.default_rng(0)
    tokens = {
        "encoder_input_tokens": rng.integers(2, 64, (6, 7)),
        "decoder_input_tokens": rng.integers(2, 64, (6, 5)),
        "decoder_target_tokens": rng.integers(2, 64, (6, 5)),
    }
    weights = (np.arange(5)[None] < 1 + np.arange(6)[:, None]) * 1.0
    weights[::3] = 0
    batch = {name: jnp.asarray(a, jnp.int32) for name, a in tokens.items()}
    return batch | {"decoder_loss_weights": jnp.asarray(weights, jnp.float32)}


@pytest.mark.slow
def test_a_batch_in_parts_has_the_gradient_and_metrics_of_the_whole():
    """In float32, to 1e-6 of the greatest: the parts' sums have another order."""
    model = t5.T5(SHAPE)
    trained, frozen = trees.split(drawn.params_of(model, seed=0), "kernel$")
    state = state_lib.init_state(trained, optax.sgd(1.0), seed=0)
    loss_fn, batch = loss.make_loss_fn(model), t5_batch()

    def gradient(num_parts):
        return jax.jit(
            lambda: step.differentiate(
                loss_fn, state, frozen, batch, num_parts=num_parts
            )
        )()

    whole, expected_metrics = gradient(1)
    greatest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole))
    assert (
        float(expected_metrics["weight_sum"])
        == batch["decoder_loss_weights"].sum()
        == 15
    )
    for num_parts in (2, 3, 6):  # in three parts, one has no weight at all
        grads, metrics = gradient(num_parts)
        for name, of_parts in trees.flatten(grads).items():
            np.testing.assert_allclose(
                *(of_parts, trees.flatten(whole)[name]),
                rtol=0,
                atol=1e-6 * greatest,
                err_msg=name,
            )
        assert metrics.keys() == expected_metrics.keys()
        for name, value in expected_metrics.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_batch_without_weight_moves_nothing_in_parts_either():
    model = t5.T5(SHAPE)
    trained, frozen = trees.split(drawn.params_of(model, seed=0), "kernel$")
    tx = optax.sgd(1.0)
    batch = t5_batch() | {"decoder_loss_weights": jnp.zeros((6, 5))}
    step_fn = step.make_train_step(loss.make_loss_fn(model), tx, num_parts=3)
    new, metrics = step_fn(state_lib.init_state(trained, tx, seed=0), frozen, batch)
    assert float(metrics["loss"]) == 0
    toy.assert_same_bits(new.params, trained)


def rows_of(number):
    rng = np.random.default_rng(number)
    return {
        n: rng.normal(size=(8, 4)).astype(np.float32) for n in ("inputs", "targets")
    }


@pytest.mark.slow
def test_every_part_drops_values_of_its_own():
    state, frozen, _ = toy.start()
    tx, _ = toy.make_step()
    params, batch = trees.join(state.params, frozen), rows_of(1)
    rng = jax.random.fold_in(jax.random.key(toy.SEED), 0)
    losses = [
        toy.loss_fn(
            params,
            {name: rows[part::2] for name, rows in batch.items()},
            jax.random.fold_in(rng, part),
        )[0]
        for part in (0, 1)
    ]
    _, metrics = step.make_train_step(toy.loss_fn, tx, num_parts=2)(
        state, frozen, batch
    )
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-6)


@pytest.mark.slow
def test_over_devices_each_keeps_its_rows_of_every_part():
    mesh = toy.make_mesh(4)
    whole = NamedSharding(mesh, PartitionSpec())
    state, frozen, _ = toy.start()
    tx, _ = toy.make_step()
    alone = step.make_train_step(toy.loss_fn, tx, num_parts=2)
    expected, _ = alone(toy.start()[0], frozen, rows_of(1))
    state, frozen = jax.device_put((state, frozen), whole)
    batch = jax.device_put(rows_of(1), NamedSharding(mesh, PartitionSpec("data")))
    program = step.lower_step(toy.loss_fn, tx, state, frozen, batch, num_parts=2)
    text = program.compile().as_text()
    assert "all-reduce" in text
    for moving in ("all-gather", "all-to-all", "collective-permute"):
        assert moving not in text
    new, _ = step.make_train_step(toy.loss_fn, tx, num_parts=2)(state, frozen, batch)
    for a, b in zip(*map(jax.tree.leaves, (new.params, expected.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_tokens_are_counted_without_padding_and_with_it():
    state, frozen, step_fn = toy.start()
    batch = toy.batch_at(0) | {
        "encoder_input_tokens": np.array([[5, 1, 0], [7, 7, 1]], np.int32),
        "decoder_target_tokens": np.array([[9, 1], [1, 0]], np.int32),
    }
    _, metrics = step_fn(state, frozen, batch)
    assert float(metrics["num_tokens"]) == 8
    assert float(metrics["num_positions"]) == 10
