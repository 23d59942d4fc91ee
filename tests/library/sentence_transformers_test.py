"""Other sentence-transformers models come through an extra, or say so."""

import importlib.util

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.library import minilm, sentence_transformers

IS_INSTALLED = importlib.util.find_spec("sentence_transformers") is not None


def test_constructing_loads_nothing_and_the_name_tells_model_and_length():
    embedder = sentence_transformers.SentenceTransformer("gtr-t5-large")
    longer = sentence_transformers.SentenceTransformer("gtr-t5-large", max_length=256)
    assert embedder.name == "sentence-transformers:gtr-t5-large"
    assert longer.name == "sentence-transformers:gtr-t5-large-256"


def test_a_folders_name_is_of_its_content_not_of_its_place(tmp_path):
    def name_of(place, content):
        folder = tmp_path / place / "model"
        (folder / "1_Pooling").mkdir(parents=True)
        (folder / "config.json").write_text(content)
        (folder / "1_Pooling" / "config.json").write_text("{}")
        return sentence_transformers.SentenceTransformer(str(folder)).name

    assert name_of("a", "{}") == name_of("b", "{}")
    assert name_of("a2", "{ }") != name_of("b2", "{}")
    assert name_of("c", "{}").startswith("sentence-transformers:model-")


@pytest.mark.skipif(IS_INSTALLED, reason="sentence-transformers is installed")
def test_without_the_package_the_error_names_the_extra():
    embedder = sentence_transformers.SentenceTransformer("gtr-t5-large")
    with pytest.raises(errors.MissingExtraError) as caught:
        embedder.embed(["a"])
    assert "elm_jax[sentence-transformers]" in str(caught.value)
    assert "gtr-t5-large" in str(caught.value)


@pytest.mark.skipif(not IS_INSTALLED, reason="needs sentence-transformers")
def test_it_agrees_with_minilm_in_jax():
    folder = str(minilm.installed_folder())
    embedder = sentence_transformers.SentenceTransformer(folder, max_length=256)
    texts = ["one text", "and a longer one " * 100]
    np.testing.assert_allclose(
        embedder.embed(texts), minilm.load().embed(texts), atol=1e-5
    )
