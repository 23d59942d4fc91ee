"""Texts of any length in few shapes, and every vector back at its own text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_jax import errors
from elm_jax.library import encoder

shapes = set()


def encode(tokens):
    """Mean and count of the ids that are not padding."""
    assert tokens.dtype == np.int32
    shapes.add(tokens.shape)
    counts = np.sum(tokens != 0, axis=1)
    assert np.all(counts > 0)
    return np.stack([np.sum(tokens, axis=1) / counts, counts], axis=1)


def make_embedder(max_length=100):
    return encoder.EncoderEmbedder(
        name="mean",
        tokenize_fn=lambda texts: [[ord(c) for c in text] for text in texts],
        encode_fn=encode,
        max_length=max_length,
    )


@given(texts=st.lists(st.text("abc", min_size=1, max_size=100), min_size=1))
@settings(deadline=None)
def test_each_text_gets_its_own_vector(texts):
    vectors = make_embedder().embed(texts)
    expected = [[np.mean([ord(c) for c in t]), len(t)] for t in texts]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)


def test_few_shapes_serve_all_lengths():
    shapes.clear()
    embedder = make_embedder()
    for size in range(1, 101):
        embedder.embed(["a" * size] * (1 + size % 11))
    widths = {length for _, length in shapes}
    assert widths == set(encoder.padded_lengths(100))
    assert {batch for batch, _ in shapes} == {encoder.BATCH_SIZE}


@pytest.mark.parametrize("max_length", [1, 16, 17, 256, 512])
def test_padded_lengths_rise_to_the_greatest(max_length):
    lengths = encoder.padded_lengths(max_length)
    assert list(lengths) == sorted(set(lengths))
    assert lengths[-1] == max_length


@pytest.mark.parametrize("texts", [[], [""], ["a", "b" * 101]])
def test_no_texts_no_tokens_and_too_many_are_refused(texts):
    with pytest.raises(errors.LibraryError, match="of 1 to 100 tokens"):
        make_embedder().embed(texts)


def test_vectors_that_are_not_finite_are_refused():
    embedder = encoder.EncoderEmbedder(
        name="too large",
        tokenize_fn=lambda texts: [[1]] * len(texts),
        encode_fn=lambda tokens: np.full((len(tokens), 2), np.inf),
        max_length=8,
    )
    with pytest.raises(errors.LibraryError, match="too large: .* not finite"):
        embedder.embed(["a"])


def test_a_tokenizer_that_loses_a_text_is_refused():
    embedder = encoder.EncoderEmbedder(
        name="lossy", tokenize_fn=lambda _: [[1]], encode_fn=encode, max_length=8
    )
    with pytest.raises(errors.LibraryError, match="2 texts with"):
        embedder.embed(["a", "b"])
