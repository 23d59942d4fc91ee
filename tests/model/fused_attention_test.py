"""NVIDIA's kernel: every use of it is traced without a GPU, and means the same."""

import dataclasses
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from elm_jax import errors, trees
from elm_jax.model import (
    beam_search,
    decoding,
    decoding_spec,
    fused_attention,
    loss,
    scoring,
    t5,
)
from elm_jax.peft import bottleneck, expert_parts

VERSION = 90800
MASKS = cudnn.MaskType
LANES = 3
_MASKED = -1e30


def plain(query, keys, values, bias, lengths, mask_type):
    """What the kernel is said to compute, in float32."""
    wide = [part.astype(jnp.float32) for part in (query, keys, values)]
    logits = jnp.einsum("bthk,bshk->bhts", *wide[:2])
    if bias is not None:
        assert bias.shape in (logits.shape, (1, *logits.shape[1:]))
        logits = logits + bias.astype(jnp.float32)
    rows, columns = np.indices(logits.shape[2:])[:, None, None]
    is_causal = mask_type in (MASKS.CAUSAL, MASKS.PADDING_CAUSAL)
    mask = columns <= rows if is_causal else np.ones_like(rows, bool)
    if lengths is not None:
        assert lengths.shape == query.shape[:1]
        mask = mask & (columns < lengths[:, None, None, None])
    weights = jax.nn.softmax(jnp.where(mask, logits, _MASKED))
    return jnp.einsum("bhts,bshk->bthk", weights, wide[2]).astype(query.dtype)


class PlainKernel:
    """Plain products in the place of JAX's call of the kernel."""

    __signature__ = inspect.signature(cudnn._dot_product_attention)

    def __call__(self, *args):
        return self.fwd(*args)[0]

    def fwd(self, *args):
        arrays, function = self._parts(args)
        mixed = function(*arrays)
        statistics = jnp.zeros(())  # of each row, in JAX's; here nothing reads it
        first = [*self.__signature__.parameters].index("scale")
        return mixed, (*args[:first], jnp.broadcast_to(statistics, len(mixed)), mixed)

    def bwd(self, *args):
        *settings, (*arrays, _, _), grads = args
        arrays, function = self._parts([*arrays, *settings])
        return jax.vjp(function, *arrays)[1](grads)

    def _parts(self, args):
        """Returns what is differentiated, and the function of that."""
        names = self.__signature__.parameters
        value_of = dict(zip(names, args, strict=True))
        has_bias, has_bias_gradient = value_of["variadic_args"]
        bias = value_of["bias"] if has_bias else None
        lengths = value_of["kv_seqlen"] if value_of["kv_seqlen"].size else None
        arrays = [value_of[name] for name in ("query", "key", "value")]
        arrays += [bias] if has_bias_gradient else []

        def function(query, keys, values, bias=bias):
            return plain(query, keys, values, bias, lengths, value_of["mask_type"])

        return arrays, function


@pytest.fixture
def plain_kernel(monkeypatch):
    monkeypatch.setattr(cudnn, "_dot_product_attention", PlainKernel())
    with fused_attention.assuming(VERSION):
        yield


def make(tiny, attention="cudnn", *, spec=None, **changes):
    shape = dataclasses.replace(
        tiny.config, attention=attention, dtype="bfloat16", **changes
    )
    return t5.T5(shape, spec and spec.adapter_fn(shape.emb_dim))


def batch_of(tiny, packed, num_inputs=None, num_targets=None):
    batch = tiny.packed_batch if packed else tiny.batch
    return {
        name: leaf[:, : num_inputs if name.startswith("encoder") else num_targets]
        for name, leaf in batch.items()
    }


def gradient_of(model, batch, key=None):
    """Returns `(trained, frozen) -> gradients` of the loss of a batch."""
    loss_fn = loss.make_loss_fn(model)

    def gradient(trained, frozen):
        def loss_of(params):
            return loss_fn(trees.join(params, frozen), batch, key)[0]

        return jax.grad(loss_of)(trained)

    return gradient


def kernels(function, *args):
    """Returns how often kernels are called: forward, backward, with bias gradient."""
    with fused_attention.assuming(VERSION):
        text = str(jax.make_jaxpr(function)(*args))
    backward = re.findall(r"dot_product_attention_bwd_wrapper\[.*?\]", text, re.DOTALL)
    with_bias = [call for call in backward if "variadic_args=(True, True)" in call]
    forward = text.count("dot_product_attention_fwd_wrapper[")
    return forward, len(backward), len(with_bias)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("pattern", [expert_parts.NORMS, expert_parts.DATASET_EXPERT])
@pytest.mark.parametrize("lengths", [(None, None), (23, 11)])
def test_a_training_step_asks_for_bias_gradients_only_where_the_bias_trains(
    tiny, packed, pattern, lengths
):
    batch = batch_of(tiny, packed, *lengths)
    model = make(tiny, remat="none")
    trained, frozen = trees.split(tiny.params, pattern)
    gradient = gradient_of(model, batch)
    num_biases = 2 if pattern == expert_parts.DATASET_EXPERT else 0
    assert kernels(gradient, trained, frozen) == (3, 3, num_biases)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("remat", ["none", "products", "layer"])
@pytest.mark.parametrize(
    ("pattern", "num_biases"),
    [(expert_parts.PROMPT_EXPERT, 0), (expert_parts.DATASET_EXPERT, 2)],
)
def test_lanes_of_a_fleet_take_their_steps_as_one_batch(
    tiny, packed, remat, pattern, num_biases
):
    spec = bottleneck.Bottleneck(reduction_factor=4)
    model = make(tiny, spec=spec, remat=remat)
    trained, frozen = trees.split(t5.param_shapes(model), pattern)
    batch = batch_of(tiny, packed)

    def take(trained, batch):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), frozen)
        return gradient_of(model, batch)(trained, zeros)

    lanes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((LANES, *leaf.shape), leaf.dtype),
        (trained, batch),
    )
    again = 0 if remat == "none" else 3
    assert kernels(jax.vmap(take), *lanes) == (3 + again, 3, num_biases)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_kernel")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("pattern", [expert_parts.NORMS, expert_parts.DATASET_EXPERT])
def test_each_lane_has_the_gradients_that_it_has_alone(
    tiny, assert_close, packed, pattern
):
    model, batch = make(tiny), batch_of(tiny, packed)
    trained, frozen = trees.split(tiny.params, pattern)
    lanes = jax.tree.map(lambda x: np.stack([x, 0.9 * x]), trained)
    batches = jax.tree.map(lambda x: np.stack([x, x[::-1]]), batch)

    def gradient(trained, batch):
        return gradient_of(model, batch)(trained, frozen)

    together = jax.jit(jax.vmap(gradient))(lanes, batches)
    alone = jax.lax.map(lambda lane: gradient(*lane), (lanes, batches))
    pairs = zip(*map(jax.tree.leaves, (together, alone)), strict=True)
    for leaf, expected in pairs:
        assert_close(leaf, expected, tolerance=0.02)  # sums in bfloat16


@pytest.mark.slow
def test_ranking_and_decoding_are_traced(tiny):
    model = make(tiny)
    params, inputs = tiny.params, tiny.batch["encoder_input_tokens"]
    targets = tiny.batch["decoder_target_tokens"]
    choices = np.stack([targets, targets], axis=1)
    mask = np.ones(choices.shape[:2], bool)
    score = scoring.make_score_fn(model)
    assert kernels(score, params, inputs, choices, mask) == (3, 0, 0)
    ids = np.zeros(len(inputs), np.int32)
    decode = decoding.make_decode_fn(model, decoding_spec.GREEDY, max_decode_len=4)
    assert kernels(decode, params, inputs, ids) == (1, 0, 0)
    beams = decoding_spec.BeamSearch(num_beams=2)
    search = beam_search.make_search_fn(model, beams, max_decode_len=4)
    assert kernels(search, params, inputs) == (1, 0, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_kernel")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lengths", [(None, None), (23, 11)])
def test_what_the_kernel_is_asked_for_is_what_plain_products_give(
    tiny, assert_close, packed, lengths
):
    batch = batch_of(tiny, packed, *lengths)
    fused, expected = (
        jax.jit(gradient_of(make(tiny, attention), batch))(tiny.params, {})
        for attention in ("cudnn", "einsum")
    )
    for leaf, expected_leaf in zip(
        *map(jax.tree.leaves, (fused, expected)), strict=True
    ):
        assert_close(leaf, expected_leaf, tolerance=0.05)  # bfloat16 on both sides


@pytest.mark.slow
@pytest.mark.usefixtures("plain_kernel")
def test_a_row_of_padding_alone_stays_finite(tiny):
    spans = fused_attention.spans_of(np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1]], bool))
    np.testing.assert_array_equal(spans.lengths, [2, 1, 3])
    batch = {name: leaf.copy() for name, leaf in tiny.batch.items()}
    batch["encoder_input_tokens"][0] = 0
    mean, _ = loss.make_loss_fn(make(tiny))(tiny.params, batch, None)
    assert np.isfinite(mean)


@pytest.mark.slow
def test_parameters_are_drawn_where_there_is_no_gpu(tiny):
    drawn = t5.init_params(make(tiny), seed=0)
    expected = t5.init_params(make(tiny, "einsum"), seed=0)
    assert trees.fingerprint(drawn) == trees.fingerprint(expected)


@pytest.mark.slow
def test_a_step_without_dropout_of_weights_is_traced_with_the_other_dropouts(tiny):
    model = make(tiny, dropout_rate=0.1, attention_dropout=False, remat="none")
    gradient = gradient_of(model, tiny.batch, jax.random.key(0))
    assert kernels(gradient, tiny.params, {}) == (3, 3, 2)
    dropouts = [
        str(
            jax.make_jaxpr(gradient_of(model, tiny.batch, jax.random.key(0)))(
                tiny.params, {}
            )
        ).count("random_bits")
        for model in (
            make(tiny, "einsum", dropout_rate=0.1, remat="none"),
            make(
                tiny, "einsum", dropout_rate=0.1, attention_dropout=False, remat="none"
            ),
        )
    ]
    assert dropouts[0] > dropouts[1] > 0
    with pytest.raises(errors.ConfigError, match="attention_dropout = False"):
        jax.eval_shape(
            gradient_of(make(tiny, dropout_rate=0.1), tiny.batch, jax.random.key(0)),
            tiny.params,
            {},
        )
