"""The network: parity with T5X, and what must not influence what."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import config, decoding, decoding_spec, loss, pooling, scoring, t5
from elm_jax.peft import bottleneck

XL = config.T5Config(
    vocab_size=32128,
    emb_dim=2048,
    num_heads=32,
    head_dim=64,
    mlp_dim=5120,
    num_encoder_layers=24,
    num_decoder_layers=24,
)


TOKENS = ("encoder_input_tokens", "decoder_input_tokens")


@pytest.fixture(scope="module")
def logits_of(tiny):
    names = (*TOKENS, "encoder_segment_ids", "decoder_segment_ids")
    run = jax.jit(lambda p, b: tiny.model.apply({"params": p}, **b))
    return lambda b: run(tiny.params, {name: b[name] for name in names if name in b})


def test_logits_equal_those_of_t5x(tiny, logits_of, assert_close):
    is_target = tiny.batch["decoder_loss_weights"] > 0
    logits = logits_of(tiny.batch)
    assert_close(logits, tiny.reference["logits"], where=is_target)


def test_packed_logits_equal_those_of_t5x(tiny, logits_of, assert_close):
    is_target = tiny.packed_batch["decoder_loss_weights"] > 0
    logits = logits_of(tiny.packed_batch)
    assert_close(logits, tiny.reference["packed_logits"], where=is_target)


def test_packed_equals_unpacked(tiny, logits_of, assert_close):
    packed = logits_of(tiny.packed_batch)[0]
    unpacked = logits_of(tiny.batch)
    assert_close(packed[:5], unpacked[1, :5])
    assert_close(packed[5:6], unpacked[3, :1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"scan_unroll": 2, "remat": "none"},
        {"remat": "layer"},
        {"attention": "dot_product"},
        {"attention": "dot_product", "remat": "layer"},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_ways_to_run_the_layers_give_the_same_loss_and_gradient(
    tiny, change, loss_and_grad, assert_close
):
    changed = t5.T5(dataclasses.replace(tiny.config, **change))
    loss_fn = loss.make_loss_fn(changed, z_loss=1e-4)
    grad = jax.jit(lambda p, b: jax.grad(loss_fn, has_aux=True)(p, b, None)[0])
    expected = trees.flatten(loss_and_grad(tiny.params, tiny.batch)[1])
    for name, leaf in trees.flatten(grad(tiny.params, tiny.batch)).items():
        assert_close(leaf, expected[name])


@pytest.mark.slow
def test_no_target_sees_a_later_one(tiny):
    """Causality by gradient: each logit's, for the embedded targets."""
    row = tiny.batch["decoder_input_tokens"][:1]
    inputs = tiny.batch["encoder_input_tokens"][:1]
    length = row.shape[1]
    # Embeddings beyond the vocabulary, one per target position.
    targets = 384 + np.arange(length)[None]
    table = tiny.params["token_embedder"]["embedding"]

    def logits_at(embedded):
        embedding = jnp.concatenate([table, embedded])
        params = tiny.params | {"token_embedder": {"embedding": embedding}}
        return model.apply({"params": params}, inputs, targets)[0].sum(-1)

    model = t5.T5(dataclasses.replace(tiny.config, vocab_size=384 + length))
    kernel = np.pad(tiny.params["decoder"]["logits_dense"]["kernel"], ((0, 0), (0, 12)))
    decoder = tiny.params["decoder"] | {"logits_dense": {"kernel": kernel}}
    tiny = tiny._replace(params=tiny.params | {"decoder": decoder})
    influence = np.abs(jax.jit(jax.jacobian(logits_at))(table[row[0]])).sum(-1)
    assert np.all(np.triu(influence, k=1) == 0)
    assert np.all(influence[np.tril_indices(length)] > 0)


def test_inputs_of_padding_influence_nothing(tiny, apply):
    tokens, targets = (tiny.batch[name] for name in TOKENS)
    encoded = apply("encode", tokens)
    spoilt = np.where((tokens == 0)[:, :, None], np.float32(np.nan), encoded)
    expected = apply("decode", encoded, tokens, targets)
    decoded = apply("decode", spoilt, tokens, targets)
    np.testing.assert_array_equal(decoded, expected)


class SpoiltT5(t5.T5):
    """Encoder outputs are NaN where padding is."""

    def encode(self, encoder_input_tokens, **options):
        encoded = super().encode(encoder_input_tokens, **options)
        return jnp.where((encoder_input_tokens == 0)[..., None], jnp.nan, encoded)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["training", "scores", "greedy", "beams", "vectors"])
def test_encoder_output_at_padding_influences_nothing(tiny, way):
    inputs = tiny.batch["encoder_input_tokens"]
    assert np.any(inputs == 0)

    def results(model):
        if way == "training":
            loss_fn = loss.make_loss_fn(model)
            grad = jax.jit(jax.value_and_grad(loss_fn, has_aux=True), static_argnums=2)
            return jax.tree.leaves(grad(tiny.params, tiny.batch, None))
        if way == "scores":
            choices = tiny.batch["decoder_target_tokens"][:, None]
            mask = np.ones((4, 1), bool)
            return [scoring.make_score_fn(model)(tiny.params, inputs, choices, mask)]
        if way in ("greedy", "beams"):
            num_beams = 3 if way == "beams" else 1
            spec = decoding_spec.BeamSearch(num_beams=num_beams)
            decode = decoding.make_decode_fn(model, spec, max_decode_len=12)
            return [decode(tiny.params, inputs, np.zeros(4, np.int32))]
        return [pooling.make_encode_fn(model)(tiny.params, inputs)]

    pairs = zip(results(SpoiltT5(tiny.config)), results(tiny.model), strict=True)
    for spoilt, expected in pairs:
        np.testing.assert_array_equal(spoilt, expected)


def test_more_padding_changes_nothing(tiny, logits_of, assert_close):
    wider = {
        name: np.pad(value, ((0, 2), (0, 5))) for name, value in tiny.batch.items()
    }
    narrow, wide = logits_of(tiny.batch), logits_of(wider)
    assert_close(wide[:4, :12], narrow)
    assert np.all(np.isfinite(wide))


def test_softmax_and_logits_are_float32_under_bfloat16_compute(tiny, assert_close):
    model = t5.T5(dataclasses.replace(tiny.config, dtype="bfloat16"))
    batch = tiny.batch

    def logits_of_params(params):
        return model.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
        )

    jaxpr = jax.make_jaxpr(logits_of_params)(tiny.params)
    dtypes = {"exp": set(), "dot_general": set()}
    for equation in _equations(jaxpr.jaxpr):
        if equation.primitive.name in dtypes:
            dtypes[equation.primitive.name].add(equation.invars[0].aval.dtype.name)
    assert dtypes == {"exp": {"float32"}, "dot_general": {"bfloat16", "float32"}}
    logits = jax.jit(logits_of_params)(tiny.params)
    is_target = batch["decoder_loss_weights"] > 0
    assert_close(logits, tiny.reference["logits"], where=is_target, tolerance=0.05)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def test_parameters_of_t5_xl_have_the_names_and_sizes_of_t5x():
    shapes = trees.flatten(t5.param_shapes(t5.T5(XL)))
    per_layer = sum(
        leaf.shape[0] if "/layers/" in name else 1 for name, leaf in shapes.items()
    )
    # Encoder layers have 9 tensors, decoder layers 14; each stack has a final norm
    # and a table of relative positions; then embedding and output layer.
    assert per_layer == 24 * 9 + 24 * 14 + 6
    assert trees.count_params(t5.param_shapes(t5.T5(XL))) == 2_849_757_184
    assert all(leaf.dtype == np.float32 for leaf in shapes.values())
    assert shapes["decoder/layers/encoder_decoder_attention/out/kernel"].shape == (
        *(24, 2048, 2048),
    )


@pytest.mark.slow
def test_initial_parameters_have_the_spread_that_t5x_gives_them(tiny):
    leaves = trees.flatten(t5.init_params(tiny.model, seed=0))
    spreads = {
        "token_embedder/embedding": 1.0,
        "encoder/layers/attention/query/kernel": (1 / 32 / 16) ** 0.5,
        "encoder/layers/attention/key/kernel": (1 / 32) ** 0.5,
        "encoder/layers/attention/out/kernel": (1 / 32) ** 0.5,
        "decoder/layers/mlp/wi_0/kernel": (1 / 32) ** 0.5,
        "decoder/layers/mlp/wo/kernel": (1 / 64) ** 0.5,
        "decoder/logits_dense/kernel": (1 / 32) ** 0.5,
        "decoder/relpos_bias/rel_embedding": (1 / 17) ** 0.5,
    }
    for name, spread in spreads.items():
        rtol = 4 / (2 * leaves[name].size) ** 0.5  # four standard errors
        np.testing.assert_allclose(leaves[name].std(), spread, rtol=rtol, err_msg=name)
        assert abs(leaves[name].mean()) < 4 * spread / leaves[name].size ** 0.5
    layers = leaves["encoder/layers/attention/key/kernel"]
    assert not np.array_equal(layers[0], layers[1])
    assert np.all(leaves["decoder/layers/pre_mlp_layer_norm/scale"] == 1)


@pytest.mark.slow
def test_initial_parameters_are_a_function_of_the_seed(tiny):
    first, again, of_another_seed = (
        t5.init_params(tiny.model, seed=seed) for seed in (1, 1, 2)
    )
    assert trees.fingerprint(first) == trees.fingerprint(again)
    assert trees.fingerprint(first) != trees.fingerprint(of_another_seed)


def test_t5_1_0_has_one_input_projection_and_no_output_layer(tiny):
    shape = dataclasses.replace(
        tiny.config, mlp_activations=("relu",), logits_via_embedding=True
    )
    model = t5.T5(shape)
    shapes = t5.param_shapes(model)
    assert set(shapes["encoder"]["layers"]["mlp"]) == {"wi", "wo"}
    assert "logits_dense" not in shapes["decoder"]
    # Where all layers add nothing, the embedding meets itself.
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    table = np.eye(384, 32, dtype=np.float32)
    params["token_embedder"] = {"embedding": table}
    params["decoder"]["decoder_norm"] = {"scale": np.ones(32, np.float32)}
    tokens = np.array([[3, 7]])
    logits = jax.jit(model.apply)({"params": params}, tokens, tokens)
    # A unit vector has root mean square 1 / sqrt(32); the norm makes it sqrt(32),
    # which the scaling of tied logits takes off again.
    np.testing.assert_allclose(logits[0], table[[3, 7]] @ table.T, atol=1e-3)


@pytest.mark.slow
def test_dropout_changes_logits_and_is_a_function_of_its_key(tiny):
    model = t5.T5(dataclasses.replace(tiny.config, dropout_rate=0.5))

    @jax.jit
    def logits(key):
        return model.apply(
            {"params": tiny.params},
            *(tiny.batch[name] for name in TOKENS),
            deterministic=False,
            rngs={"dropout": jax.random.key(key)},
        )

    np.testing.assert_array_equal(logits(0), logits(0))
    assert not np.allclose(logits(0), logits(1))


def test_models_of_equal_configuration_are_equal(tiny):
    spec = bottleneck.Bottleneck(reduction_factor=8)
    first, second = (t5.T5(tiny.config, spec.adapter_fn(32)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
