"""Placement on eight devices: the same numbers, and refusals before compiling."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from elm_jax import errors, trees
from elm_jax.model import config, t5
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
    with pytest.raises(
        errors.ConfigError, match="a multiple of 8.*\n.*BATCH_SIZE to 16"
    ):
        mesh.shard_batch(make_batch(12), mesh.make_mesh())


@pytest.mark.parametrize(
    "shape", [(3, 1, 1), (-1, 1, 3), (8, 1, 2), (-1, 16, 1), (2, -1, 8)]
)
def test_a_mesh_of_other_devices_than_there_are_is_refused(shape):
    num_data, num_fsdp, num_model = shape
    with pytest.raises(errors.ConfigError, match="for 8 devices"):
        mesh.make_mesh(num_data=num_data, num_fsdp=num_fsdp, num_model=num_model)


@pytest.mark.parametrize("sizes", [(8, 1), (2, 2), (1, 8), (-1, 1), (-1, 2)])
def test_a_mesh_uses_all_devices(sizes):
    device_mesh = mesh.make_mesh(num_fsdp=sizes[0], num_model=sizes[1])
    assert device_mesh.axis_names == mesh.AXES
    assert device_mesh.size == 8


def test_fully_sharded_parameters_leave_an_eighth_on_each_device(params):
    devices = mesh.make_mesh(num_fsdp=8)
    placed = mesh.place(params, devices, "fsdp")
    whole = trees.count_bytes(params)
    biases = 2 * 4 * 32 * 4  # relative positions: heads x buckets, not split
    assert mesh.bytes_per_device(placed) == (whole - biases) // 8 + biases


def test_one_process_makes_all_rows():
    assert mesh.process_part(mesh.make_mesh(num_fsdp=2)) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("num_fsdp", [1, 8])
def test_drawn_parameters_do_not_depend_on_where_they_lie(num_fsdp):
    devices = mesh.make_mesh(num_fsdp=num_fsdp)
    shardings = mesh.shardings(t5.param_shapes(MODEL), devices, "fsdp")
    drawn = t5.init_params(MODEL, seed=5, shardings=shardings)
    alone = t5.init_params(MODEL, seed=5)
    assert trees.fingerprint(drawn) == trees.fingerprint(alone)
    some, _ = trees.split(shardings, "norm")
    assert trees.flatten(t5.init_params(MODEL, seed=5, shardings=some)).keys() == (
        trees.flatten(some).keys()
    )


def test_activations_keep_their_rows_and_gather_parameters(params):
    devices = mesh.make_mesh(num_fsdp=8)
    placed = mesh.place(params, devices, "fsdp")
    batch = mesh.shard_batch(make_batch(8), devices)

    def count_collectives(model):
        def encode(params, tokens):
            return model.apply({"params": params}, tokens, method=model.encode)

        tokens = batch["encoder_input_tokens"]
        text = jax.jit(encode).lower(placed, tokens).compile().as_text()
        return text.count(" all-reduce("), text.count(" all-gather(")

    num_sums, num_gathered = count_collectives(
        MODEL.clone(split_rows=mesh.SplitRows(devices))
    )
    assert num_sums == 0
    assert num_gathered > 0
    assert count_collectives(MODEL)[0] > 0  # what the compiler would do by itself


def test_a_dimension_that_does_not_divide_is_refused_by_name():
    devices = mesh.make_mesh(num_model=8)
    with pytest.raises(errors.ConfigError, match=r"bedding \(4, 32\) by \(8, 1\)"):
        mesh.plan(t5.param_shapes(MODEL), devices, "data_model")
