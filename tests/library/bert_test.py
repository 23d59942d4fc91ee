"""The encoder by its properties, on a small random model."""

import jax
import numpy as np
import pytest

from elm_jax.library import bert

CONFIG = bert.BertConfig(
    num_hidden_layers=2, num_attention_heads=2, layer_norm_eps=1e-12
)
WIDTH, HIDDEN = 8, 16


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)

    def tensor(*shape):
        return rng.normal(size=shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": tensor(20, WIDTH),
        "embeddings.position_embeddings.weight": tensor(12, WIDTH),
        "embeddings.token_type_embeddings.weight": tensor(2, WIDTH),
        "embeddings.LayerNorm.weight": tensor(WIDTH),
        "embeddings.LayerNorm.bias": tensor(WIDTH),
    }
    sizes = {"intermediate.dense": (HIDDEN, WIDTH), "output.dense": (WIDTH, HIDDEN)}
    for layer in range(2):
        for part in bert._LAYER_PARTS:
            is_norm = part.endswith("LayerNorm")
            shape = (WIDTH,) if is_norm else sizes.get(part, (WIDTH, WIDTH))
            tensors[f"encoder.layer.{layer}.{part}.weight"] = tensor(*shape)
            tensors[f"encoder.layer.{layer}.{part}.bias"] = tensor(shape[0])
    return jax.device_put(bert.stack_layers(tensors, 2))


@jax.jit
def embed_on_device(params, tokens):
    return bert.pool_mean(bert.encode(params, tokens, CONFIG), tokens)


def embed(params, tokens):
    return np.asarray(embed_on_device(params, np.asarray(tokens, np.int32)))


def test_padding_changes_no_vector(params):
    short = embed(params, [[3, 4, 5]])
    long = embed(params, [[3, 4, 5, -1, -1, -1]])
    np.testing.assert_allclose(long, short, rtol=1e-5, atol=1e-6)


def test_every_token_and_its_place_matter(params):
    vectors = embed(params, [[3, 4, 5], [3, 4, 6], [4, 3, 5]])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(vectors[first] - vectors[second]).max() > 1e-3


def test_token_zero_is_a_token(params):
    with_zero = embed(params, [[3, 0, 5]])
    with_padding = embed(params, [[3, -1, 5]])
    assert np.abs(with_zero - with_padding).max() > 1e-3


def test_vectors_have_length_one(params):
    lengths = np.linalg.norm(embed(params, [[3, 4], [5, -1]]), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


@pytest.mark.slow
def test_all_layers_take_part(params):
    def loss(layers):
        tokens = np.array([[3, 4, 5]], np.int32)
        hidden = bert.encode(params | {"layers": layers}, tokens, CONFIG)
        return (hidden**2)[0, 0, 0]

    gradients = jax.jit(jax.grad(loss))(params["layers"])
    for name, gradient in gradients.items():
        if name != "attention.self.key.bias":  # shifts all scores of a query alike
            sizes = np.abs(gradient).reshape(2, -1).max(axis=1)
            assert np.all(sizes > 0), name
