"""Estimates of cost, against XLA's own count."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import config, cost, loss, t5
from elm_jax.peft import bottleneck, expert_parts, lora
from elm_jax.training import optimizers, state, step

SHAPE = cost.BatchShape(batch_size=2, inputs_length=32, targets_length=16)


# Wide enough for matrix products to outweigh norms, softmax and activations, as they
# do in any real model; depths differ. XLA counts the body of a loop once, so the
# layers are unrolled.
SMALL = config.T5Config(
    vocab_size=512,
    emb_dim=256,
    num_heads=3,
    head_dim=64,
    mlp_dim=640,
    num_encoder_layers=2,
    num_decoder_layers=3,
    scan_unroll=3,
)
SMALL_SHAPE = cost.BatchShape(batch_size=4, inputs_length=96, targets_length=48)


def batch_shapes(shape):
    def tokens(length, dtype=np.int32):
        return jax.ShapeDtypeStruct((shape.batch_size, length), dtype)

    return {
        "encoder_input_tokens": tokens(shape.inputs_length),
        "decoder_input_tokens": tokens(shape.targets_length),
        "decoder_target_tokens": tokens(shape.targets_length),
        "decoder_loss_weights": tokens(shape.targets_length, np.float32),
    }


def make_model(shape, kind):
    """Returns a model, and its trainable and frozen parameters."""
    spec = {
        "prompt": bottleneck.Bottleneck(reduction_factor=8),
        "lora": lora.Lora(targets="/"),
        "dataset": None,
    }[kind]
    model = t5.T5(shape, spec and spec.adapter_fn(shape.emb_dim))
    pattern = (
        expert_parts.DATASET_EXPERT if spec is None else expert_parts.PROMPT_EXPERT
    )
    return model, *trees.split(t5.param_shapes(model), pattern)


def lower_step(shape, sizes, kind):
    """Returns the program of a whole training step, not yet compiled."""
    model, trainable, frozen = make_model(shape, kind)
    tx = optimizers.Adafactor(learning_rate=1e-3).make(10)
    now = state.TrainState(
        step=jax.ShapeDtypeStruct((), np.int32),
        params=trainable,
        opt_state=jax.eval_shape(tx.init, trainable),
        rng=jax.ShapeDtypeStruct((2,), np.uint32),
    )
    take = functools.partial(step.take_step, loss.make_loss_fn(model), tx.update)
    return jax.jit(take).lower(now, frozen, batch_shapes(sizes))


@pytest.mark.parametrize("is_tied", [False, True])
def test_forward_operations_are_those_that_xla_counts(is_tied):
    shape = dataclasses.replace(SMALL, logits_via_embedding=is_tied)
    model = t5.T5(shape)
    params, batch = t5.param_shapes(model), batch_shapes(SMALL_SHAPE)
    tokens = (batch["encoder_input_tokens"], batch["decoder_input_tokens"])
    lowered = jax.jit(model.apply).lower({"params": params}, *tokens)
    counted = lowered.cost_analysis()["flops"]
    flops = cost.forward_flops(shape, SMALL_SHAPE, params)
    assert 0.95 * counted < flops < 1.05 * counted


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "products", "layer"])
@pytest.mark.parametrize("kind", ["dataset", "prompt", "lora"])
def test_operations_of_a_step_are_those_that_xla_counts(kind, remat):
    shape = dataclasses.replace(SMALL, remat=remat)
    counted = lower_step(shape, SMALL_SHAPE, kind).cost_analysis()["flops"]
    _, trainable, frozen = make_model(shape, kind)
    flops = cost.train_flops(shape, SMALL_SHAPE, trainable=trainable, frozen=frozen)
    assert 0.95 * counted < flops < 1.05 * counted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset", "lora"])
def test_kept_products_are_not_computed_again_in_bfloat16_either(kind):
    """There, products with parameters that train have a gradient of our own."""
    counted = {
        remat: lower_step(
            dataclasses.replace(SMALL, remat=remat, dtype="bfloat16"), SMALL_SHAPE, kind
        ).cost_analysis()["flops"]
        for remat in config.REMATS
    }
    assert counted["none"] < counted["products"] < counted["layer"]
    saved = (counted["layer"] - counted["products"]) / counted["none"]
    assert saved > 0.15


def test_a_frozen_base_costs_two_thirds_of_one_that_trains():
    shape = dataclasses.replace(SMALL, remat="none")
    _, whole, _ = make_model(shape, "dataset")
    _, trainable, frozen = make_model(shape, "prompt")
    full = cost.train_flops(shape, SMALL_SHAPE, trainable=whole, frozen={})
    part = cost.train_flops(shape, SMALL_SHAPE, trainable=trainable, frozen=frozen)
    assert 0.63 < part / full < 0.75  # the adapters come on top


@pytest.mark.slow
def test_no_gradient_of_a_frozen_weight_is_computed():
    """In the compiled program: no product has the shape of a weight of the base."""
    # Sizes that no two things share. Tokens are 2 x 11 and 2 x 7.
    shape = config.T5Config(
        vocab_size=104,
        emb_dim=32,
        num_heads=5,
        head_dim=8,
        mlp_dim=72,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    sizes = cost.BatchShape(batch_size=2, inputs_length=11, targets_length=7)
    weights = {(32, 40), (40, 32), (32, 72), (72, 32), (32, 104), (104, 32)}

    def weight_products(kind):
        program = lower_step(shape, sizes, kind).compile().as_text()
        # Products come out of `dot` or of a call of the backend's own library.
        dots = re.findall(r"= \(?f32\[([\d,]+)\]\S* (?:dot|custom-call)\(", program)
        shapes = {tuple(map(int, dot.split(","))) for dot in dots}
        assert {(22, 40), (22, 72)} <= shapes  # activations, so products are seen
        return shapes & weights

    assert {tuple(sorted(each)) for each in weight_products("dataset")} == {
        *((32, 40), (32, 72), (32, 104))
    }
    assert not weight_products("prompt")


def test_operations_grow_linearly_with_the_batch(tiny):
    params = tiny.params
    of_two_rows, of_four_rows = (
        cost.forward_flops(
            tiny.config, dataclasses.replace(SHAPE, batch_size=size), params
        )
        for size in (2, 4)
    )
    assert of_four_rows == 2 * of_two_rows


@pytest.mark.slow
def test_recomputation_trades_bytes_for_operations(tiny):
    none, products, layer = (
        dataclasses.replace(tiny.config, remat=remat)
        for remat in ("none", "products", "layer")
    )
    flops = [
        cost.train_flops(each, SHAPE, trainable=tiny.params, frozen={})
        for each in (none, products, layer)
    ]
    assert flops == sorted(set(flops))
    activation_sizes = [
        activation_bytes(each, SHAPE) for each in (none, products, layer)
    ]
    assert activation_sizes == sorted(activation_sizes, reverse=True)
    assert len(set(activation_sizes)) == 3


def activation_bytes(shape, sizes, kind="dataset", **options):
    model, trained, _ = make_model(shape, kind)
    names = trees.flatten(trained)
    return cost.activation_bytes(model, sizes, trained=names, **options)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "products", "layer"])
def test_bytes_are_about_those_that_xla_allocates(remat):
    """On a CPU; planner_table_test.py has the compilers of accelerators."""
    wide = dataclasses.replace(
        SMALL, remat=remat, num_encoder_layers=6, num_decoder_layers=6, scan_unroll=1
    )
    shape = cost.BatchShape(batch_size=16, inputs_length=64, targets_length=32)
    compiled = lower_step(wide, shape, "prompt").compile().memory_analysis()
    planned = activation_bytes(wide, shape, "prompt")
    assert 0.6 * compiled.temp_size_in_bytes < planned
    assert planned < 1.5 * compiled.temp_size_in_bytes


@pytest.mark.slow
def test_devices_that_share_a_model_keep_fewer_activations(tiny):
    alone, shared = (activation_bytes(tiny.config, SHAPE, num_model=n) for n in (1, 2))
    assert alone / 2 < shared < alone


@pytest.mark.slow
def test_activations_of_a_deeper_model_are_those_of_more_layers():
    """By the layer: what lies between the stacks stays the same."""
    plain = dataclasses.replace(SMALL, remat="none")
    depths = [dataclasses.replace(plain, num_encoder_layers=n) for n in (2, 3, 4)]
    two, three, four = (activation_bytes(each, SMALL_SHAPE) for each in depths)
    assert three - two == four - three > 0


def trace_attention(shape, sizes):
    # No device is here on which the network with cuDNN could make its parameters.
    model, trained, _ = make_model(
        dataclasses.replace(shape, attention="einsum"), "dataset"
    )
    names = trees.flatten(trained)
    return cost.activation_bytes(model.clone(config=shape), sizes, trained=names)


@pytest.mark.slow
def test_fused_attention_keeps_no_pairs_of_positions():
    bfloat16 = dataclasses.replace(SMALL, remat="none", dtype="bfloat16")
    long = cost.BatchShape(batch_size=4, inputs_length=512, targets_length=16)
    with jax.numpy_dtype_promotion("standard"):  # JAX's own attention mixes them
        plain, fused = (
            trace_attention(dataclasses.replace(bfloat16, attention=name), long)
            for name in ("dot_product", "cudnn")
        )
    pairs = 4 * SMALL.num_heads * 512 * 512  # of each layer of the encoder
    assert plain - fused > SMALL.num_encoder_layers * 4 * pairs


@pytest.mark.parametrize(("num_beams", "times"), [(1, 2), (4, 2.5)])
def test_decoding_holds_what_is_written_twice_and_beams_that_move(num_beams, times):
    shape = dataclasses.replace(SMALL, num_heads=2, head_dim=4, mlp_dim=8)
    position = 2 * 3 * (2 * 4) * 4  # keys and values of three layers in float32
    batch = cost.BatchShape(batch_size=5, inputs_length=7, targets_length=11)
    of_inputs, written = 5 * 7 * position, num_beams * 5 * 11 * position
    held = cost.decoding_bytes(shape, batch, num_beams)
    assert held == of_inputs + times * written


@pytest.mark.slow
def test_a_layer_that_devices_split_is_whole_while_it_works():
    model, trained, frozen = make_model(SMALL, "dataset")
    names = trees.flatten(trained)
    whole, split = (
        cost.activation_bytes(model, SMALL_SHAPE, trained=names, num_fsdp=count)
        for count in (1, 2)
    )
    # Attention twice, feed-forward with its gate, three norms: parameters of a layer
    # of the decoder, and as many gradients, both in float32.
    layer = 8 * 256 * 192 + 3 * 256 * 640 + 3 * 256
    assert not frozen
    assert split - whole == layer * (4 + 4)
