"""Every table of axis rules on every family: eight devices give what one gives."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import config, decoding, decoding_spec, loss, scoring, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import rules
from elm_jax.peft import bottleneck, expert_parts, ia3, lora, mixture, points
from elm_jax.routing import token_routers
from elm_jax.runs import placement
from elm_jax.runs.training import step_cost
from elm_jax.training import optimizers, state, step
from tests import drawn

# Sums over devices are added in another order; a few units in the last place of
# float32, whose spacing is 1.2e-7.
RELATIVE = 1e-6
NUM_ROWS, INPUTS_LENGTH, TARGETS_LENGTH, NUM_CHOICES = 8, 6, 4, 3
MESHES = {  # num_fsdp, num_model; what is left is data
    "data": (1, 1),
    "fsdp": (4, 1),
    "data_model": (1, 4),
    "fsdp_model": (2, 2),
}
T5_1_1 = config.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=4,
    head_dim=4,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
T5_1_0 = dataclasses.replace(
    T5_1_1, mlp_activations=("relu",), logits_via_embedding=True
)
# Heads together are not as wide as the model; a large vocabulary.
MT5 = dataclasses.replace(T5_1_1, vocab_size=256, head_dim=8)
# A deep encoder, a shallow decoder and few tokens.
BYT5 = dataclasses.replace(
    T5_1_1, vocab_size=48, num_encoder_layers=3, num_decoder_layers=1
)
# A large epsilon: Adam divides gradients by their own size, and makes large steps of
# the rounding errors of those that are nearly 0.
ADAMW, ADAFACTOR = optimizers.AdamW(eps=1e-3), optimizers.Adafactor()
# Compiling takes most of the time, and these programs run once.
FAST_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
BOTTLENECK = bottleneck.Bottleneck(reduction_factor=4, points=points.SUB_LAYERS)
FAMILIES = {
    "T5 1.0, dataset expert": (T5_1_0, None, "all", ADAFACTOR),
    "mT5, dataset expert": (MT5, None, "all", ADAMW),
    "ByT5, prompt expert": (BYT5, BOTTLENECK, "adapters_and_norms", ADAMW),
    "T5 1.1, LoRA": (T5_1_1, lora.Lora(rank=2), "adapters", ADAMW),
    "T5 1.1, (IA)3": (T5_1_1, ia3.Ia3(), "adapters", ADAFACTOR),
}


def tokens(seed, *shape):
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, 48, shape).astype(np.int32)
    ids[0, ..., -2:] = 0  # a row with padding
    return ids


INPUTS, TARGETS = (
    tokens(0, NUM_ROWS, INPUTS_LENGTH),
    tokens(1, NUM_ROWS, TARGETS_LENGTH),
)
ARRAYS = {
    "encoder_input_tokens": INPUTS,
    "decoder_input_tokens": np.pad(TARGETS[:, :-1], ((0, 0), (1, 0))),
    "decoder_target_tokens": TARGETS,
    "decoder_loss_weights": (TARGETS != 0).astype(np.float32),
    "choices": tokens(2, NUM_ROWS, NUM_CHOICES, TARGETS_LENGTH),
    "choice_mask": np.arange(NUM_CHOICES)[None] < 2 + np.arange(NUM_ROWS)[:, None] % 2,
    "ids": np.arange(NUM_ROWS, dtype=np.int32),
}


@functools.cache
def host_params(family):
    shape, adapter, *_ = FAMILIES[family]
    model = t5.T5(shape, adapter and adapter.adapter_fn(shape.emb_dim))
    return model, drawn.params_of(model, seed=3)


def outcome(family, devices, table):
    """Returns a step's loss and parameters, choices' scores and decoded tokens."""
    model, params = host_params(family)
    _, _, parts, optimizer = FAMILIES[family]
    if devices is not None:
        model = model.clone(split_rows=meshes.SplitRows(devices))
        params = meshes.place(params, devices, table)
        arrays = meshes.shard_batch(ARRAYS, devices)
    else:
        arrays = dict(ARRAYS)
    trained, frozen = trees.split(params, expert_parts.trainable_pattern(parts))
    tx = optimizer.make(10)
    now = state.init_state(trained, tx, seed=0)
    check_bytes(model, now, frozen, devices, table, tx)
    score = scoring.make_score_fn(model)
    decode = decoding.make_decode_fn(
        model, decoding_spec.GREEDY, max_decode_len=TARGETS_LENGTH
    )

    batch = {n: a for n, a in arrays.items() if "coder" in n}
    whole, inputs = trees.join(now.params, frozen), batch["encoder_input_tokens"]
    compiled = functools.partial(jax.jit, compiler_options=FAST_TO_COMPILE)
    loss_fn = loss.make_loss_fn(model)
    take_step = functools.partial(step.take_step, loss_fn, tx.update)
    # In three programs, as the binaries have them, one after the other: what does not
    # depend on each other in one program, XLA's CPU client runs at once, each device
    # in an order of its own, and devices then wait for each other in a ring.
    choices = arrays["choices"], arrays["choice_mask"]
    return {
        "scores": jax.device_get(compiled(score)(whole, inputs, *choices)),
        "decoded": jax.device_get(compiled(decode)(whole, inputs, arrays["ids"])),
        "step": jax.device_get(compiled(take_step)(now, frozen, batch)),
    }


def check_bytes(model, now, frozen, devices, table, tx):
    """The plan's bytes of parameters and optimiser are those on each device."""
    if devices is None:
        return
    sizes = {f"num_{axis}": devices.shape[axis] for axis in meshes.AXES}
    planned = step_cost.parameter_bytes(
        model,
        placement.Devices(**sizes, axis_rules=table),
        tx=tx,
        trainable=now.params,
        frozen=frozen,
    )
    assert planned["trained parameters"] == meshes.bytes_per_device(now.params)
    assert planned["optimiser"] == meshes.bytes_per_device(now.opt_state)
    assert planned["frozen parameters"] == meshes.bytes_per_device(frozen)


@pytest.fixture(scope="module")
def unsharded():
    return functools.cache(lambda family: outcome(family, None, "data"))


def assert_close(computed, expected, name, times=1):
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    np.testing.assert_allclose(
        computed, expected, rtol=0, atol=times * RELATIVE * scale, err_msg=name
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("table", rules.TABLES)
def test_sharded_equals_unsharded(unsharded, family, table):
    num_fsdp, num_model = MESHES[table]
    devices = meshes.make_mesh(num_fsdp=num_fsdp, num_model=num_model)
    sharded, expected = outcome(family, devices, table), unsharded(family)
    np.testing.assert_array_equal(sharded["decoded"], expected["decoded"])
    assert_close(sharded["scores"], expected["scores"], "scores")
    (now, metrics), (whole, one_metrics) = sharded["step"], expected["step"]
    for name, value in one_metrics.items():
        # The norm is a sum over all gradients, and 1.01e-6 apart at the worst.
        assert_close(metrics[name], value, name, 1 + (name == "grad_norm"))
    # The optimiser's means show gradients that a step of this rate hides.
    for what in ("params", "opt_state"):
        leaves = jax.tree.leaves_with_path(getattr(whole, what))
        others = jax.tree.leaves(getattr(now, what))
        for (path, leaf), leaf_now in zip(leaves, others, strict=True):
            assert_close(leaf_now, leaf, f"{what}{jax.tree_util.keystr(path)}")


LORA, ARROW = lora.Lora(rank=2), token_routers.Arrow(top_k=2)
MIXTURES = {
    "bottlenecks": (BOTTLENECK, ARROW, False),
    "LoRA": (LORA, token_routers.Gates(top_k=2), False),
    "(IA)3": (ia3.Ia3(), token_routers.EffectNorm(top_k=2), False),
    "LoRA, only chosen": (LORA, ARROW, True),
    "norms": (BOTTLENECK, token_routers.Gates(top_k=2), False),
}
NUM_EXPERTS = 4
ONE_LAYER = dataclasses.replace(T5_1_1, num_encoder_layers=1, num_decoder_layers=1)


def scores_of(name, devices, table):
    """Returns the choices' scores by a mixture of experts that are not near nothing."""
    spec, router, only_chosen = MIXTURES[name]
    mixture_spec = mixture.Mixture(
        of=spec,
        num_experts=NUM_EXPERTS,
        router=router,
        only_chosen=only_chosen,
        routes_norms=name == "norms",
    )
    model = t5.T5(ONE_LAYER, mixture_spec.adapter_fn(ONE_LAYER.emb_dim))
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32),
        t5.param_shapes(model),
    )
    arrays = ARRAYS
    if devices is not None:
        model = model.clone(split_rows=meshes.SplitRows(devices))
        params = meshes.place(params, devices, table)
        arrays = meshes.shard_batch(ARRAYS, devices)
    row_arrays = (arrays[n] for n in ("encoder_input_tokens", "choices", "choice_mask"))
    score = jax.jit(scoring.make_score_fn(model), compiler_options=FAST_TO_COMPILE)
    return jax.device_get(score(params, *row_arrays))


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_sharded_mixtures_equal_unsharded_ones(name):
    expected = scores_of(name, None, "data")
    for table in ("data", "data_model"):
        num_fsdp, num_model = MESHES[table]
        devices = meshes.make_mesh(num_fsdp=num_fsdp, num_model=num_model)
        assert_close(scores_of(name, devices, table), expected, table)


def test_the_tables_of_the_meshes_above_are_all_there_are():
    assert MESHES.keys() == rules.TABLES.keys()
