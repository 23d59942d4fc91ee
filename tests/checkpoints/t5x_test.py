import json
import pathlib
import shutil

import numpy as np
import pytest
from flax import serialization

from elm_jax import errors, trees
from elm_jax.checkpoints import layers, t5x

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "t5x_tiny"
FOLDERS = ["plain_legacy_opt", "plain_legacy_bf16", "plain_orbax_opt"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_weight_is_the_one_t5x_wrote(folder):
    params, step = t5x.load_t5x(FIXTURES / folder / "checkpoint_3")
    listed = json.loads((FIXTURES / "arrays.json").read_text())["plain"]
    expected = {
        name.removeprefix("target/"): facts
        for name, facts in listed.items()
        if name.startswith("target/")
    }
    found = trees.flatten(layers.unstack_layers(params))
    assert step == 3
    assert found.keys() == expected.keys()
    rtol = 4e-3 if folder.endswith("bf16") else 1e-12
    for name, weight in found.items():
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


def test_the_scanned_network_is_refused(tmp_path):
    scale = np.ones((4, 2), np.float32)
    target = {"encoder": {"encoder": {"mlp": {"scale": scale}}}}
    content = {"optimizer": {"target": target, "state": {"step": 1}}}
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(errors.CheckpointError, match="scanned network"):
        t5x.load_t5x(tmp_path)
