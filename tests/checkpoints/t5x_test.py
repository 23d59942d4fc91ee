import json
import pathlib
import shutil

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import layers, t5x

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "t5x_tiny"
FOLDERS = [
    "plain_legacy_opt",
    "plain_legacy_noopt",
    "plain_legacy_bf16",
    "plain_orbax_opt",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_weight_is_the_one_t5x_wrote(folder):
    params, step = t5x.load_t5x(FIXTURES / folder / "checkpoint_3")
    listed = json.loads((FIXTURES / "arrays.json").read_text())["plain"]
    expected = {
        name.removeprefix("target/"): facts
        for name, facts in listed.items()
        if name.startswith("target/")
    }
    weights = trees.flatten(layers.unstack_layers(params))
    assert step == 3
    assert weights.keys() == expected.keys()
    rtol = 4e-3 if folder.endswith("bf16") else 1e-12
    for name, weight in weights.items():
        facts, weight = expected[name], np.asarray(weight, np.float64)
        assert list(weight.shape) == facts["shape"], name
        np.testing.assert_allclose(np.linalg.norm(weight), facts["l2"], rtol=rtol)
        atol = 1e-12 + rtol * np.abs(weight).sum()
        np.testing.assert_allclose(weight.sum(), facts["sum"], atol=atol)


def test_both_formats_hold_the_same_bits():
    legacy, _ = t5x.load_t5x(FIXTURES / "plain_legacy_opt" / "checkpoint_3")
    orbax, _ = t5x.load_t5x(FIXTURES / "plain_orbax_opt" / "checkpoint_3")
    assert trees.fingerprint(legacy) == trees.fingerprint(orbax)


def test_layers_are_stacked_in_order():
    params, _ = t5x.load_t5x(FIXTURES / "plain_legacy_opt" / "checkpoint_3")
    stacked = params["decoder"]["layers"]["self_attention"]["query"]["kernel"]
    assert stacked.shape == (2, 32, 32)
    assert stacked.dtype == np.float32


def test_a_lost_array_is_an_error(tmp_path):
    copy = tmp_path / "checkpoint_3"
    shutil.copytree(FIXTURES / "plain_legacy_opt" / "checkpoint_3", copy)
    shutil.rmtree(copy / "target.encoder.encoder_norm.scale")
    with pytest.raises(errors.CheckpointError, match="encoder_norm"):
        t5x.load_t5x(copy)


def test_a_lost_part_of_an_array_is_an_error(tmp_path):
    copy = tmp_path / "checkpoint_3"
    shutil.copytree(FIXTURES / "plain_legacy_noopt" / "checkpoint_3", copy)
    (copy / "target.decoder.decoder_norm.scale" / "0").unlink()
    with pytest.raises(errors.CheckpointError, match="decoder_norm"):
        t5x.load_t5x(copy)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("0", lambda content: content[:-1]),  # of gzip's own checksum
        ("0", lambda content: content[:-8]),
        ("0", lambda content: content + b"\0"),
        (".zarray", lambda content: content + b"{}"),
    ],
)
def test_a_file_of_an_array_that_ends_early_or_late_is_an_error(tmp_path, file, damage):
    copy = tmp_path / "checkpoint_3"
    shutil.copytree(FIXTURES / "plain_legacy_noopt" / "checkpoint_3", copy)
    path = copy / "target.decoder.decoder_norm.scale" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(errors.CheckpointError, match="cannot be read"):
        t5x.load_t5x(copy)


def test_a_torn_file_is_an_error(tmp_path):
    whole = FIXTURES / "plain_legacy_opt" / "checkpoint_3" / "checkpoint"
    (tmp_path / "checkpoint").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(errors.CheckpointError, match="cannot be read"):
        t5x.load_t5x(tmp_path)


def test_the_folder_above_is_refused_with_what_lies_in_it():
    with pytest.raises(errors.CheckpointError, match="inside it: checkpoint_3"):
        t5x.load_t5x(FIXTURES / "plain_orbax_opt")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(errors.CheckpointError, match="no folder .*nowhere"):
        t5x.load_t5x(tmp_path / "nowhere")


def test_the_scanned_network_has_a_table_per_layer_and_joined_heads():
    path = FIXTURES / "scan_legacy_noopt" / "checkpoint_3"
    params, step = t5x.load_t5x(path)
    stored = t5x.open_t5x(path).scanned
    decoder = params["decoder"]["layers"]
    assert step == 3
    assert decoder["relpos_bias"]["rel_embedding"].shape == (2, 2, 32)
    query = stored["decoder/decoder/self_attention/query/kernel"].read()
    out = stored["decoder/decoder/self_attention/out/kernel"].read()
    for n in range(2):
        ours = decoder["self_attention"]["query"]["kernel"][n]
        np.testing.assert_array_equal(ours, query[:, n].reshape(32, 32))
        ours = decoder["self_attention"]["out"]["kernel"][n]
        np.testing.assert_array_equal(ours, out[:, n].reshape(32, 32))


def test_every_scanned_weight_is_the_one_t5x_wrote():
    stored = t5x.open_t5x(FIXTURES / "scan_legacy_noopt" / "checkpoint_3").scanned
    listed = json.loads((FIXTURES / "arrays.json").read_text())["scan"]
    expected = {n: f for n, f in listed.items() if n.startswith("target/")}
    assert {f"target/{name}" for name in stored} == expected.keys()
    for name, tensor in stored.items():
        norm = np.linalg.norm(tensor.read().astype(np.float64))
        np.testing.assert_allclose(norm, expected[f"target/{name}"]["l2"], rtol=1e-12)


@pytest.mark.parametrize("folder", ["plain_legacy_opt", "plain_orbax_opt"])
def test_a_url_is_read_as_a_path_is(folder):
    path = FIXTURES / folder / "checkpoint_3"
    by_url, _ = t5x.load_t5x(path.as_uri())
    assert trees.fingerprint(by_url) == trees.fingerprint(t5x.load_t5x(path)[0])


def test_all_that_does_not_fit_a_model_is_named_at_once():
    opened = t5x.open_t5x(FIXTURES / "plain_legacy_noopt" / "checkpoint_3")
    expected = trees.flatten(t5x.load_t5x(FIXTURES / "plain_orbax_opt/checkpoint_3")[0])
    expected["encoder/layers/mlp/wi_0/kernel"] = np.zeros((2, 32, 8), np.float32)
    expected["encoder/layers/mlp/wi_9/kernel"] = np.zeros((1, 1), np.float32)
    del expected["decoder/logits_dense/kernel"]
    with pytest.raises(errors.CheckpointError) as caught:
        t5x.check(opened, trees.unflatten(expected), of="x")
    assert "missing: encoder/layers_0/mlp/wi_9/kernel" in str(caught.value)
    assert "extra: decoder/logits_dense/kernel" in str(caught.value)
    assert "layers_1/mlp/wi_0/kernel (32, 64) instead of (32, 8)" in str(caught.value)
