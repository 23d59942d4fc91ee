"""Damaged and strange files of torch are refused by name."""

import pathlib

import pytest

from elm_jax import errors
from elm_jax.checkpoints import torch_files


def torch_values():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 4)
    yield "float8", tensor.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"
    yield (
        "quantised",
        torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "torch.qint8",
    )
    yield "sparse", tensor.to_sparse(), "a torch.sparse_coo tensor"
    yield "csr", tensor.to_sparse_csr(), "a torch.sparse_csr tensor"
    yield "meta", tensor.to("meta"), "meta"
    yield "complex", tensor.to(torch.complex64), "torch.complex64"
    yield "bool", tensor.bool(), "torch.bool"
    yield "claims", torch.ones(1).expand(10**6, 10**6), "bytes of which the file holds"
    yield (
        "nested",
        torch.nested.nested_tensor([tensor, tensor]),
        "nested|cannot be read",
    )
    yield "text", "x", "a str"
    yield "list", [tensor], "a list"


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_torch_that_numpy_has_not_are_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    for name, value, message in torch_values():
        path = tmp_path / f"{name}.bin"
        torch.save({"shared.weight": value, "other": torch.ones(2)}, path)
        with pytest.raises(errors.CheckpointError, match=message):
            torch_files.open_file(path)
        torch.save(value, path)
        with pytest.raises(errors.CheckpointError, match=message):
            torch_files.read_tensor(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"\x80\x02."])
def test_what_torch_cannot_read_is_refused(tmp_path, content):
    pytest.importorskip("torch")
    path = pathlib.Path(tmp_path / "x.bin")
    path.write_bytes(content)
    with pytest.raises(errors.CheckpointError, match="cannot be read"):
        torch_files.open_file(path)


def test_names_that_are_no_texts_and_packed_members_are_refused(tmp_path):
    import zipfile

    torch = pytest.importorskip("torch")
    path = tmp_path / "x.bin"
    torch.save({5: torch.ones(2)}, path)
    with pytest.raises(errors.CheckpointError, match="5 is no name"):
        torch_files.open_file(path)
    packed = tmp_path / "packed.bin"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", 8) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    with pytest.raises(errors.CheckpointError, match="is compressed"):
        torch_files.open_file(packed)
