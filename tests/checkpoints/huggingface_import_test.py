import dataclasses
import json

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import (
    huggingface,
    huggingface_files,
    huggingface_import,
    huggingface_rules,
)
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
    fields, leaves = read(folder)
    assert fields == shape
    assert sample.fingerprint(leaves) == trees.fingerprint(params)


def write(folder, shape, changes, extra=lambda hub_tensors: {}):
    hub_tensors = sample.to_theirs(sample.make_params(shape))
    return sample.write_folder(
        folder, hub_tensors | extra(hub_tensors), shape, **changes
    )


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
    fields, _ = read(write(tmp_path / "x", shape, changes))
    assert fields.logits_via_embedding is is_tied


def copied(hub_tensors):
    shared = hub_tensors["shared.weight"]
    return {"lm_head.weight": shared, "decoder.embed_tokens.weight": shared}


def test_copies_of_the_embedding_and_a_table_nobody_reads_are_left_out(tmp_path):
    table = {huggingface.UNREAD: np.zeros((32, 2), np.float32)}
    folder = write(
        tmp_path / "x", TIED, {}, lambda hub_tensors: copied(hub_tensors) | table
    )
    fields, leaves = read(folder)
    assert fields.logits_via_embedding
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
    differing = {"encoder.embed_tokens.weight": np.ones((11, 6), np.float32)}
    with pytest.raises(errors.CheckpointError, match="embed_tokens.weight differs"):
        read(write(tmp_path / "x", TIED, {}, lambda hub_tensors: differing))


def test_all_tensors_that_do_not_fit_are_named_at_once(tmp_path):
    hub_tensors = sample.to_theirs(sample.make_params())
    del hub_tensors["decoder.block.2.layer.1.EncDecAttention.v.weight"]
    hub_tensors["visual.weight"] = np.zeros(3, np.float32)
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    hub_tensors[name] = np.zeros((6, 9), np.float32)
    with pytest.raises(errors.CheckpointError) as caught:
        read(sample.write_folder(tmp_path / "x", hub_tensors))
    text = str(caught.value)
    assert "missing: decoder.block.2.layer.1.EncDecAttention.v.weight" in text
    assert "extra: visual.weight" in text
    assert f"{name} (6, 9) instead of (6, 10)" in text


def test_the_rows_of_the_vocabulary_are_those_of_the_file(tmp_path):
    fields, _ = read(write(tmp_path / "x", sample.CONFIG, {"vocab_size": 5}))
    assert fields.vocab_size == 11


def test_another_architecture_is_refused_with_all_that_is_wrong(tmp_path):
    changes = {"model_type": "bart", "feed_forward_proj": "gelu", "d_kv": None}
    with pytest.raises(errors.CheckpointError) as caught:
        read(write(tmp_path / "x", sample.CONFIG, changes))
    for part in ("'bart'", "feed_forward_proj is 'gelu'", "d_kv is missing"):
        assert part in str(caught.value)


def write_generation(folder, **settings):
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


# Models of other people that import tensor by tensor, but compute something else here:
# code models end with 2, mBART-like ones start elsewhere.
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token_id": 2, "bos_token_id": 1}, "eos_token_id is 2 (here 1)"),
        ({"eos_token_id": [1, 2]}, "eos_token_id is [1, 2]"),
        ({"decoder_start_token_id": 5}, "decoder_start_token_id is 5 (here 0)"),
        ({"pad_token_id": 1}, "pad_token_id is 1 (here 0)"),
        (
            {"decoder_start_token_id": None, "bos_token_id": 2},
            "bos_token_id is 2 without",
        ),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder is False"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"tie_encoder_decoder": True}, "tie_encoder_decoder is True"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is {'0': [1]}"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu'"),
        ({"is_gated_act": False}, "is_gated_act is False"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, but num_layers 2"),
        ({"head_dim": 8}, "head_dim is 8, but d_kv 4"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
        ({"scale_decoder_outputs": "no"}, "scale_decoder_outputs is 'no'"),
        ({"quantization_config": {"bits": 8}}, "quantization_config is {'bits': 8}"),
        ({"per_layer_config": {"0": {"d_ff": 2}}}, "per_layer_config is"),
        ({"auto_map": {"AutoModel": "m.T"}}, "auto_map is"),
        ({"architectures": ["RotaryT5"]}, "architectures is ['RotaryT5']"),
        ({"num_layers": True}, "num_layers is True"),
        ({"attention_scale": 0.5}, "unknown field attention_scale is 0.5"),
    ],
)
def test_a_field_that_changes_the_function_is_refused_by_name(
    tmp_path, changes, message
):
    with pytest.raises(errors.CheckpointError) as caught:
        read(write(tmp_path / "x", sample.CONFIG, changes))
    assert message in str(caught.value)


def test_a_field_no_t5_has_is_ignored_and_named_if_the_user_says_so(tmp_path):
    folder = write(tmp_path / "x", sample.CONFIG, {"my_note": 1, "pad_token_id": 0})
    model = huggingface_files.open_folder(folder)
    assert huggingface_import.model_fields(model, ["my_note"])["emb_dim"] == 6
    lines = huggingface_import.notes(model, ["my_note", "absent"])
    assert lines == ["ignored, as ignored_fields says: my_note"]
    (tmp_path / "y").mkdir()
    folder = write(tmp_path / "y" / "x", sample.CONFIG, {"pad_token_id": 7})
    model = huggingface_files.open_folder(folder)
    with pytest.raises(errors.CheckpointError, match="pad_token_id is 7"):
        huggingface_import.model_fields(model, ["pad_token_id"])


# transformers writes answers by this file, whatever config.json says.
@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"decoder_start_token_id": 5}, "decoder_start_token_id is 5 (here 0)"),
        ({"eos_token_id": 2}, "eos_token_id is 2 (here 1)"),
        ({"pad_token_id": 1}, "pad_token_id is 1 (here 0)"),
        ({"bos_token_id": 1}, "bos_token_id is 1 without"),
    ],
)
def test_other_special_ids_for_answers_are_refused(tmp_path, generation, message):
    folder = write_generation(write(tmp_path / "x", sample.CONFIG, {}), **generation)
    with pytest.raises(errors.CheckpointError) as caught:
        read(folder)
    assert "generation_config.json: " + message in str(caught.value)


def test_how_transformers_writes_answers_is_named_as_not_taken_over(tmp_path):
    tasks = {"summarization": {"num_beams": 4, "prefix": "summarize: "}}
    changes = {"num_beams": 4, "do_sample": False, "task_specific_params": tasks}
    folder = write(tmp_path / "x", sample.CONFIG, changes)
    write_generation(folder, top_k=50, max_new_tokens=7, stop_strings=["."])
    model = huggingface_files.open_folder(folder)
    assert huggingface_import.notes(model) == [
        "not taken over from config.json, as runs say how answers are written:"
        " num_beams = 4, task_specific_params",
        "not taken over from generation_config.json, as runs say how answers are"
        " written: max_new_tokens = 7, stop_strings = ['.']",
    ]


# Fields of files that were published, from 2020 to today.
PUBLISHED = {
    "t5_1_0": {
        "architectures": ["T5WithLMHeadModel"],
        "feed_forward_proj": None,
        "n_positions": 512,
        "output_past": True,
        "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "s: "}},
        "bos_token_id": None,
        "scale_decoder_outputs": None,
        "tie_word_embeddings": None,
        "_num_labels": 2,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "pruned_heads": {},
        "torchscript": False,
    },
    "flan_t5": {
        "classifier_dropout": 0.0,
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "torch_dtype": "float32",
        "transformers_version": "4.23.1",
        "tie_word_embeddings": False,
        "scale_decoder_outputs": None,
    },
    "mt5": {
        "_name_or_path": "/home/patrick/t5/mt5-xl",
        "architectures": ["MT5ForConditionalGeneration"],
        "feed_forward_proj": None,
        "model_type": "mt5",
        "tokenizer_class": "T5Tokenizer",
        "tie_word_embeddings": False,
        "scale_decoder_outputs": None,
    },
    "t0": {"gradient_checkpointing": False, "_name_or_path": "", "output_past": True},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_as_they_were_published_are_read(tmp_path, name):
    shape = TIED if name == "t5_1_0" else sample.CONFIG
    fields, _ = read(write(tmp_path / "x", shape, PUBLISHED[name]))
    assert fields == shape


def test_every_field_that_transformers_writes_is_in_a_table():
    golden = json.loads(sample.GOLDEN.read_text())["config"]
    problems = huggingface_rules.problems(golden, golden["feed_forward_proj"])
    assert list(problems) == []
    assert huggingface_rules.not_taken_over(golden) == []
    tables = (*huggingface_rules.READ, *huggingface_rules.REQUIRED)
    assert len({*tables, *huggingface_rules.IGNORED}) == len(
        (*tables, *huggingface_rules.IGNORED)
    ), "a field is in two tables"
