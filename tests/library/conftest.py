"""A small real embedder for the library's tests: hashed bags of words."""

import zlib

import numpy as np
import pytest


class BagOfWords:
    """Unit vectors of word counts, hashed to `width` places; a `types.Embedder`."""

    def __init__(self, name="bag", width=64):
        self.name, self.width = name, width
        self.num_texts = 0

    def embed(self, texts):
        self.num_texts += len(texts)
        vectors = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, zlib.crc32(word.encode()) % self.width] += 1
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(norms, 1e-12)


@pytest.fixture
def make_embedder():
    return BagOfWords
