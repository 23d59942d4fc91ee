"""Placement on eight devices: the same numbers, and refusals before compiling."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from elm_jax import errors, trees
from elm_jax.model import config, loss, t5
from elm_jax.partitioning import mesh

SHAPE = config.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=4,
    head_dim=4,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
MODEL = t5.T5(SHAPE)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32),
        t5.param_shapes(MODEL),
    )


def make_batch(num_rows):
    tokens = np.random.default_rng(0).integers(2, 64, (num_rows, 6)).astype(np.int32)
    return {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": np.ones(tokens.shape, np.float32),
    }


@pytest.mark.parametrize(("table", "num_model"), [("data", 1), ("data_model", 4)])
def test_sharded_equals_unsharded(params, table, num_model):
    loss_fn = loss.make_loss_fn(MODEL)
    grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True), static_argnums=2)
    batch = make_batch(8)
    (expected, _), expected_grads = grad_fn(params, batch, None)
    devices = mesh.make_mesh(num_model=num_model)
    placed = mesh.place(params, devices, table)
    sharded_batch = mesh.shard_batch(batch, devices)
    (found, metrics), grads = grad_fn(placed, sharded_batch, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert metrics["weight_sum"] == 48
    for name, leaf in trees.flatten(grads).items():
        np.testing.assert_allclose(
            leaf, trees.flatten(expected_grads)[name], rtol=1e-3, atol=1e-5
        )


def test_a_split_parameter_takes_its_share_of_each_device(params):
    devices = mesh.make_mesh(num_data=2, num_model=4)
    placed = trees.flatten(mesh.place(params, devices, "data_model"))
    for row in mesh.plan(t5.param_shapes(MODEL), devices, "data_model"):
        shards = placed[row.name].addressable_shards
        assert {shard.data.nbytes for shard in shards} == {row.bytes_per_device}
    kernel = placed["encoder/layers/mlp/wi_0/kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, None, "model")
    assert kernel.addressable_shards[0].data.shape == (1, 16, 8)


def test_placing_changes_no_value(params):
    placed = mesh.place(params, mesh.make_mesh(num_model=4), "data_model")
    assert trees.fingerprint(placed) == trees.fingerprint(params)


def test_a_batch_is_split_over_the_data_axis():
    devices = mesh.make_mesh(num_data=4, num_model=2)
    batch = mesh.shard_batch(make_batch(8), devices)
    shards = batch["encoder_input_tokens"].addressable_shards
    assert {shard.data.shape for shard in shards} == {(2, 6)}


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(errors.ConfigError, match="a multiple of 8"):
        mesh.shard_batch(make_batch(12), mesh.make_mesh())


@pytest.mark.parametrize("shape", [(3, 1), (-1, 3), (8, 2)])
def test_a_mesh_of_other_devices_than_there_are_is_refused(shape):
    with pytest.raises(errors.ConfigError, match="for 8 devices"):
        mesh.make_mesh(num_data=shape[0], num_model=shape[1])


def test_a_dimension_that_does_not_divide_is_refused_by_name():
    devices = mesh.make_mesh(num_model=8)
    with pytest.raises(errors.ConfigError, match=r"bedding \(4, 32\) by \(8, 1\)"):
        mesh.plan(t5.param_shapes(MODEL), devices, "data_model")
