"""Vectors of texts from the encoder."""

import numpy as np
import pytest

from elm_jax.model import pooling

pytestmark = pytest.mark.slow


def test_vectors_are_normalised_means_over_what_is_not_padding(
    tiny, apply, assert_close
):
    inputs = tiny.batch["encoder_input_tokens"]
    vectors = pooling.make_encode_fn(tiny.model)(tiny.params, inputs)
    encoded = apply("encode", inputs)
    for vector, row, tokens in zip(vectors, encoded, inputs, strict=True):
        mean = np.asarray(row)[tokens != 0].mean(axis=0)
        assert_close(vector, mean / np.linalg.norm(mean))


def test_padding_changes_no_vector_and_alone_gives_zeros(tiny, assert_close):
    inputs = tiny.batch["encoder_input_tokens"]
    encode = pooling.make_encode_fn(tiny.model)
    wide = encode(tiny.params, np.pad(inputs, ((0, 1), (0, 7))))
    assert_close(wide[:4], encode(tiny.params, inputs))
    assert np.all(wide[4] == 0)
