"""What one trace tells of bytes that a step keeps, and of shapes of parameters."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import config, cost, kept, loss, precision, t5
from elm_jax.peft import bottleneck, lora
from elm_jax.runs import bases

SHAPE = config.T5Config(
    vocab_size=40,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=3,
    dropout_rate=0.1,
    remat="none",
)
ADAPTERS = {
    "dataset": None,
    "bottleneck": bottleneck.Bottleneck(reduction_factor=4),
    "lora": lora.Lora(rank=2, alpha=2.0),
}


def naive_total(model, batch, trained):
    """Returns the bytes that come out of a forward pass of these very shapes."""
    params = trees.flatten(t5.param_shapes(model))
    trains = trees.unflatten({n: a for n, a in params.items() if n in trained})
    stays = precision.in_compute_dtype(
        model.config,
        trees.unflatten({n: a for n, a in params.items() if n not in trained}),
    )
    loss_fn = loss.make_loss_fn(model)

    def backward(trains, stays, batch, rng):
        def loss_of(trains):
            return loss_fn(trees.join(trains, stays), batch, rng)

        return jax.vjp(loss_of, trains, has_aux=True)[1]

    rng = jax.eval_shape(jax.random.key, 0)
    with jax.numpy_dtype_promotion("standard"):
        jaxpr = jax.make_jaxpr(backward)(trains, stays, batch, rng).jaxpr
    arguments = {*jaxpr.invars, *jaxpr.constvars}
    outputs = {v for v in jaxpr.outvars if not hasattr(v, "val")} - arguments
    return sum(
        math.prod(value.aval.shape)
        * (
            8
            if jax.dtypes.issubdtype(value.aval.dtype, jax.dtypes.prng_key)
            else np.dtype(value.aval.dtype).itemsize
        )
        for value in outputs
    )


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_one_trace_tells_what_batches_of_all_numbers_of_rows_keep(kind, is_packed):
    """To the byte, held against a trace of each batch itself."""
    model = bases.build_model(SHAPE, ADAPTERS[kind])
    names = trees.flatten(t5.param_shapes(model))
    trained = frozenset(n for n in names if kind == "dataset" or "adapter" in n)
    depths = SHAPE.num_encoder_layers, SHAPE.num_decoder_layers
    totals = []
    for rows in (1, 6, 16):
        shape = cost.BatchShape(batch_size=rows, inputs_length=12, targets_length=5)
        batch = cost.batch_arrays(shape, is_packed=is_packed)
        parts = kept.trace(model, batch, trained=trained)
        totals.append(sum(part.total(*depths) for part in parts))
        assert totals[-1] == naive_total(model, batch, trained)
    assert totals[0] < totals[1] < totals[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "attention": "cudnn", "attention_dropout": False},
        {"attention": "dot_product", "attention_dropout": False},
        {"remat": "layer", "scan_unroll": 2, "logits_chunks": 5},
        {"dropout_rate": 0.0, "remat": "products"},
    ],
    ids=lambda settings: ", ".join(settings),
)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_how_a_model_computes_changes_no_shape_of_a_parameter(kind, settings):
    model = bases.build_model(dataclasses.replace(SHAPE, **settings), ADAPTERS[kind])
    tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
    with jax.numpy_dtype_promotion("standard"):
        drawn = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)
    assert t5.param_shapes(model) == drawn["params"]
