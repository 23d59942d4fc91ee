import dataclasses

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import huggingface, huggingface_files, huggingface_import
from elm_jax.model import config, t5
from tests.checkpoints import huggingface_sample as sample

TIED = dataclasses.replace(
    sample.CONFIG, logits_via_embedding=True, mlp_activations=("relu",)
)


def read(folder):
    model = huggingface_files.open_folder(folder)
    fields = huggingface_import.model_fields(model)
    shape = config.T5Config(**fields)
    shapes = t5.param_shapes(t5.T5(shape))
    return shape, huggingface_import.open_leaves(model, shapes, of=str(folder))


@pytest.mark.parametrize("shape", [sample.CONFIG, TIED], ids=["untied", "tied"])
def test_a_model_comes_back_bit_for_bit(tmp_path, shape):
    params = sample.make_params(shape)
    folder = sample.write_folder(tmp_path / "x", sample.to_theirs(params), shape)
    found, leaves = read(folder)
    assert found == shape
    assert sample.fingerprint(leaves) == trees.fingerprint(params)


def write(folder, shape, changes, extra=lambda theirs: {}):
    theirs = sample.to_theirs(sample.make_params(shape))
    return sample.write_folder(folder, theirs | extra(theirs), shape, **changes)


# What transformers wrote over the years, and what the file then means.
@pytest.mark.parametrize(
    ("shape", "changes", "is_tied"),
    [
        (TIED, {"tie_word_embeddings": None, "scale_decoder_outputs": None}, True),
        (TIED, {"scale_decoder_outputs": None}, True),
        (sample.CONFIG, {"scale_decoder_outputs": None}, False),
        (sample.CONFIG, {"tie_word_embeddings": True}, False),
        (
            sample.CONFIG,
            {
                "model_type": "mt5",
                "tie_word_embeddings": True,
                "scale_decoder_outputs": None,
            },
            False,
        ),
    ],
)
def test_tied_and_untied_are_told_apart(tmp_path, shape, changes, is_tied):
    found, _ = read(write(tmp_path / "x", shape, changes))
    assert found.logits_via_embedding is is_tied


def copied(theirs):
    shared = theirs["shared.weight"]
    return {"lm_head.weight": shared, "decoder.embed_tokens.weight": shared}


def test_copies_of_the_embedding_and_a_table_nobody_reads_are_left_out(tmp_path):
    table = {huggingface.UNREAD: np.zeros((32, 2), np.float32)}
    folder = write(tmp_path / "x", TIED, {}, lambda theirs: copied(theirs) | table)
    found, leaves = read(folder)
    assert found.logits_via_embedding
    assert sample.fingerprint(leaves) == trees.fingerprint(sample.make_params(TIED))


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        (TIED, {"tie_word_embeddings": False, "scale_decoder_outputs": None}),
        (TIED, {"model_type": "mt5"}),
        (sample.CONFIG, {"tie_word_embeddings": True, "scale_decoder_outputs": None}),
        (sample.CONFIG, {"scale_decoder_outputs": True}),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path, shape, changes):
    with pytest.raises(errors.CheckpointError, match="tie_word_embeddings"):
        read(write(tmp_path / "x", shape, changes))


def test_a_copy_that_differs_is_refused(tmp_path):
    other = {"encoder.embed_tokens.weight": np.ones((11, 6), np.float32)}
    with pytest.raises(errors.CheckpointError, match="embed_tokens.weight differs"):
        read(write(tmp_path / "x", TIED, {}, lambda theirs: other))


def test_all_tensors_that_do_not_fit_are_named_at_once(tmp_path):
    theirs = sample.to_theirs(sample.make_params())
    del theirs["decoder.block.2.layer.1.EncDecAttention.v.weight"]
    theirs["visual.weight"] = np.zeros(3, np.float32)
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    theirs[name] = np.zeros((6, 9), np.float32)
    with pytest.raises(errors.CheckpointError) as caught:
        read(sample.write_folder(tmp_path / "x", theirs))
    text = str(caught.value)
    assert "missing: decoder.block.2.layer.1.EncDecAttention.v.weight" in text
    assert "extra: visual.weight" in text
    assert f"{name} (6, 9) instead of (6, 10)" in text


def test_the_rows_of_the_vocabulary_are_those_of_the_file(tmp_path):
    found, _ = read(write(tmp_path / "x", sample.CONFIG, {"vocab_size": 5}))
    assert found.vocab_size == 11


def test_another_architecture_is_refused_with_all_that_is_wrong(tmp_path):
    changes = {"model_type": "bart", "feed_forward_proj": "gelu", "d_kv": None}
    with pytest.raises(errors.CheckpointError) as caught:
        read(write(tmp_path / "x", sample.CONFIG, changes))
    for part in ("'bart'", "feed_forward_proj is 'gelu'", "d_kv is None"):
        assert part in str(caught.value)
