import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from elm_jax import errors
from elm_jax.checkpoints import huggingface_files
from tests.checkpoints import huggingface_sample as sample

THEIRS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones((4,), ml_dtypes.bfloat16),
}


def write_shards(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    index = {name: f"model-{n}.safetensors" for n, name in enumerate(THEIRS)}
    for name, file in index.items():
        safetensors.numpy.save_file({name: THEIRS[name]}, folder / file)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def check(model):
    assert model.tensors.keys() == THEIRS.keys()
    for name, tensor in model.tensors.items():
        assert (tensor.shape, tensor.dtype) == (THEIRS[name].shape, THEIRS[name].dtype)
        np.testing.assert_array_equal(tensor.read(), THEIRS[name])


def test_one_file_and_several_are_read(tmp_path):
    check(huggingface_files.open_folder(sample.write_folder(tmp_path / "1", THEIRS)))
    check(huggingface_files.open_folder(write_shards(tmp_path / "2")))


def test_a_lost_shard_is_named(tmp_path):
    folder = write_shards(tmp_path / "x")
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(errors.CheckpointError, match="not there: model-1"):
        huggingface_files.open_folder(folder)


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "..", "a/b", "/etc/passwd"])
def test_what_can_be_no_file_beside_the_index_is_refused(tmp_path, name):
    folder = write_shards(tmp_path / "x")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(errors.CheckpointError, match="no file beside it"):
        huggingface_files.open_folder(folder)


def test_a_shard_without_what_the_index_says_is_named(tmp_path):
    folder = write_shards(tmp_path / "x")
    shutil.copy(folder / "model-0.safetensors", folder / "model-1.safetensors")
    with pytest.raises(errors.CheckpointError, match="differ in: b"):
        huggingface_files.open_folder(folder)


def test_a_torn_file_and_an_empty_folder_are_errors(tmp_path):
    folder = sample.write_folder(tmp_path / "x", THEIRS)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(errors.CheckpointError, match="cannot be read"):
        huggingface_files.open_folder(folder)
    path.unlink()
    with pytest.raises(errors.CheckpointError, match=r"holds config\.json"):
        huggingface_files.open_folder(folder)


@pytest.mark.parametrize("archive", [True, False])
def test_files_of_torch_are_read_by_weights_only_loading(tmp_path, archive):
    torch = pytest.importorskip("torch")
    torch_tensors = {
        "a": torch.from_numpy(THEIRS["a"]),
        "b": torch.ones(4, dtype=torch.bfloat16),
    }
    torch.save(
        torch_tensors,
        tmp_path / "pytorch_model.bin",
        _use_new_zipfile_serialization=archive,
    )
    (tmp_path / "config.json").write_text("{}")
    check(huggingface_files.open_folder(tmp_path))
    torch.save({"a": pathlib.Path("x")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(errors.CheckpointError, match="weights-only"):
        huggingface_files.open_folder(tmp_path)


def test_a_name_on_the_hub_is_downloaded_in_one_format_only(tmp_path):
    source = sample.write_folder(tmp_path / "x", THEIRS)
    calls = []

    def download(name, *, revision, allow_patterns):
        calls.append((name, revision, allow_patterns))
        return str(source)

    folder = huggingface_files.find_folder("owner/name", "v1", download)
    assert folder == source
    ((name, revision, patterns),) = calls
    assert (name, revision) == ("owner/name", "v1")
    assert "config.json" in patterns
    assert not any("bin" in pattern for pattern in patterns)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    huggingface_files.find_folder("owner/name", None, download)
    assert "pytorch_model*.bin" in calls[-1][2]


def test_a_folder_is_not_looked_for_on_the_hub(tmp_path):
    assert huggingface_files.find_folder(str(tmp_path)) == tmp_path
    with pytest.raises(errors.CheckpointError, match="no folder a/b/c"):
        huggingface_files.find_folder("a/b/c")


def test_a_model_in_the_hubs_own_cache_is_found_offline(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    cache = tmp_path / "models--owner--name"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    folder = sample.write_folder(cache / "snapshots" / ("0" * 40), THEIRS)

    def download(name, **options):
        return hub.snapshot_download(
            name, cache_dir=tmp_path, local_files_only=True, **options
        )

    snapshot = huggingface_files.find_folder("owner/name", None, download)
    assert snapshot.samefile(folder)
    check(huggingface_files.open_folder(snapshot))
