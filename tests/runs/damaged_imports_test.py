"""Damaged weights and settings of other programs: what is said, and nothing written.

Each table is of a file: what is changed in it, and what the message then tells.
"""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors
from elm_jax.runs import convert
from tests.checkpoints import huggingface_sample
from tests.checkpoints.sample import change

SHAPE = huggingface_sample.CONFIG
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small T5 as transformers saves it."""
    hub_tensors = huggingface_sample.to_theirs(huggingface_sample.make_params())
    folder = tmp_path_factory.mktemp("hf") / "t5"
    return huggingface_sample.write_folder(folder, hub_tensors)


@pytest.fixture
def model(source, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(source, tmp_path / "model")


def refuse_model(folder, message, tmp_path):
    """Imports a folder, which has to be refused with nothing written."""
    run = convert.ImportHuggingFace(
        model_dir=str(tmp_path / "out"),
        huggingface_path=str(folder),
        base_name="base",
        dtype="float32",
    )
    with pytest.raises(errors.CheckpointError, match=message):
        run.run()
    assert not [*(tmp_path / "out").glob("base*"), *(tmp_path / "out").glob(".base*")]


CONFIGS = [
    ({"num_layers": 10**9}, "num_layers is 1000000000"),  # hf_config_layers.json
    ({"num_decoder_layers": 2 * 10**7}, "num_decoder_layers is 20000000"),
    ({"num_layers": 1000}, "tensors of .* do not fit: missing"),
    ({"d_model": 64.0}, "d_model is 64.0"),
    ({"num_heads": True}, "num_heads is True"),
    ({"d_ff": 0}, "d_ff is 0"),
    ({"feed_forward_proj": ["relu"]}, r"feed_forward_proj is \['relu'\]"),
    ({"relative_attention_num_buckets": [32]}, r"num_buckets is \[32\]"),
    ({"relative_attention_max_distance": "128"}, "max_distance is '128'"),
    ({"relative_attention_num_buckets": 6}, "relpos_buckets = 6"),
    ({"architectures": 5}, "architectures is 5"),
    ({"model_type": {"t5": 1}}, "model_type is {'t5': 1}"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
    ({"\x1b[2J": 1}, r"unknown field \\x1b\[2J is 1"),
    ({"x" * 100_000: "y" * 100_000}, "unknown field x{56}.* is 'y{56}"),
    ('{"d_model": NaN}', "NaN, which is not finite"),
    ('{"model_type": "t5", "model_type": "mt5"}', "the key 'model_type' 2 times"),
    (DEEP, "more than 64 lists"),
    ('{"model_type": "t5"', "no JSON"),
    ("\0\0\0\0", "no JSON"),
    (b"\xff\xfe", "no UTF-8"),
    ("[1]", "a list instead of an object"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS, ids=lambda v: f"{v}"[:40])
def test_a_damaged_config_of_a_model_is_refused(model, tmp_path, changes, message):
    change(model / "config.json", changes)
    refuse_model(model, message, tmp_path)


@pytest.mark.slow
def test_a_byte_order_mark_does_no_harm(model, tmp_path):
    path = model / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    convert.ImportHuggingFace(
        model_dir=str(tmp_path), huggingface_path=str(model), base_name="base"
    ).run()
    assert (tmp_path / "base" / "manifest.json").is_file()


INDEXES = [
    ({"weight_map": ["a"]}, r"weight_map is \['a'\]"),
    ({"weight_map": {"shared.weight": 5}}, "weight_map is {'shared.weight': 5}"),
    ({"weight_map": {"shared.weight": "../x.safetensors"}}, r"names '\.\./x"),
    ({"weight_map": {"shared.weight": "/etc/passwd"}}, "names '/etc/passwd'"),
    ({"weight_map": {"shared.weight": ".."}}, r"names '\.\.'"),
    ({"weight_map": {"shared.weight": ""}}, "names ''"),
    ({"weight_map": {"shared.weight": "gone"}}, "not there: gone"),
    ({"weight_map": {}}, "names 0 files"),
    ("{}", "weight_map is missing"),
    (DEEP, "more than 64 lists"),
]


@pytest.mark.parametrize(("changes", "message"), INDEXES, ids=lambda v: f"{v}"[:40])
def test_a_damaged_index_of_shards_is_refused(model, tmp_path, changes, message):
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text("{}")
    change(index, changes)
    refuse_model(model, message, tmp_path)


def test_a_tensor_in_another_file_than_the_index_says_or_in_two_is_refused(
    model, tmp_path
):
    names = list(safetensors.numpy.load_file(model / "model.safetensors"))
    first, second = model / "model-1.safetensors", model / "model-2.safetensors"
    (model / "model.safetensors").rename(first)
    safetensors.numpy.save_file({"x": np.ones(1, np.float32)}, second)
    weight_map = dict.fromkeys(names, first.name) | {"x": second.name}
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: second.name}}))
    refuse_model(model, f"differ in: {names[0]}", tmp_path)
    index.write_text(json.dumps({"weight_map": weight_map}))
    safetensors.numpy.save_file(
        {n: np.ones(1, np.float32) for n in ("x", names[0])}, second
    )
    refuse_model(model, f"tensors in several files: {names[0]}", tmp_path)


def header(text, data=b""):
    """A safetensors file of a header."""
    text = text.encode()
    return len(text).to_bytes(8, "little") + text + data


ONE = '{"shared.weight": {"dtype": "%s", "shape": %s, "data_offsets": [0, %d]}}'
SAFETENSORS = [
    (b"", "cannot be read"),
    ((2**62).to_bytes(8, "little") + b"{}", "cannot be read"),
    (header(ONE % ("F32", f"[{2**40}, {2**20}]", 2**62)), "cannot be read"),
    (header(ONE % ("F32", "[2, 4]", 32), b"\0" * 31), "cannot be read"),
    (header(ONE % ("F32", "[2, 4]", 32), b"\0" * 64), "cannot be read"),
    (header(ONE % ("F99", "[2, 4]", 32), b"\0" * 32), "cannot be read"),
    (header(DEEP), "cannot be read"),
    (header(ONE % ("F32", "[2, 4]", 32), b"\0" * 32), "no lm_head.weight"),
    (header(ONE % ("F32", "[8]", 32), b"\0" * 32), "no matrix shared.weight"),
]


@pytest.mark.parametrize(("content", "message"), SAFETENSORS, ids=lambda v: f"{v}"[:40])
def test_a_damaged_file_of_tensors_is_refused(model, tmp_path, content, message):
    (model / "model.safetensors").write_bytes(content)
    refuse_model(model, message, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus inf"]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_with_a_number_that_is_not_finite_is_no_base(
    model, tmp_path, bad, dtype
):
    path = model / "model.safetensors"
    loaded = {
        name: array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        for name, array in safetensors.numpy.load_file(path).items()
    }
    loaded["encoder.final_layer_norm.weight"][1] = bad
    safetensors.numpy.save_file(loaded, path)
    refuse_model(model, r"1 of 6 in encoder/encoder_norm/scale", tmp_path)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "bool"])
def test_weights_of_dtypes_that_are_no_numbers_of_a_model_are_refused(
    model, tmp_path, dtype
):
    dtype_name = {"float8_e4m3fn": "F8_E4M3", "int8": "I8", "bool": "BOOL"}[dtype]
    text = ONE % (dtype_name, "[6]", 6)
    content = safetensors.numpy.load_file(model / "model.safetensors")
    name = "encoder.final_layer_norm.weight"
    del content[name]
    safetensors.numpy.save_file(content, model / "model-1.safetensors")
    (model / "model-2.safetensors").write_bytes(
        header(text.replace("shared.weight", name), b"\1" * 6)
    )
    (model / "model.safetensors").unlink()
    weight_map = dict.fromkeys(content, "model-1.safetensors")
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map | {name: "model-2.safetensors"}})
    )
    refuse_model(model, f"encoder/encoder_norm/scale of dtypes .*{dtype}", tmp_path)
