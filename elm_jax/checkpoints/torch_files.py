"""Opens files of torch by its weights-only loading, which runs no code of the file."""

import functools
import pathlib
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from elm_jax import errors
from elm_jax.checkpoints.tensors import Tensor


def open_file(path: pathlib.Path) -> dict[str, Tensor]:
    """Returns the tensors of a state dictionary, not in memory yet.

    Files older than torch 1.6 are no archives; those are read as a whole.

    Raises:
      CheckpointError: It cannot be read, or holds more than tensors by name.
      MissingExtraError: torch is not installed.
    """
    content = _load_all(path)
    wrong = [
        f"{name} is {problem}"
        for name, value in content.items()
        if (problem := _problem(value))
    ]
    wrong += [f"{name!r:.60} is no name" for name in content if type(name) is not str]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise errors.CheckpointError(
            found=f"{path} holds other things than plain tensors of numbers:"
            f" {'; '.join(wrong[:5])}{more}",
            expected="a state dictionary, not quantised",
            do="Name the file of the model's weights, or save them as float32",
        )
    load = functools.partial(_load_all, path)
    if not zipfile.is_zipfile(path):
        load = functools.cache(load)
    return {
        name: Tensor(
            tuple(value.shape),
            _dtype(value),
            functools.partial(_read, load, name),
        )
        for name, value in content.items()
    }


def read_tensor(path: pathlib.Path) -> np.ndarray:
    """Returns the one tensor that a file holds, whatever device it was saved on.

    Raises:
      CheckpointError: It cannot be read, or holds something else.
      MissingExtraError: torch is not installed.
    """
    content = _load(path)
    if problem := _problem(content):
        raise _unreadable(path, f"{problem}, not a tensor of plain numbers")
    return np.array(_as_numpy(content))


def _problem(value: Any) -> str:
    """Returns what a value is instead of a tensor that numpy can hold, or "".

    A tensor may claim a shape of which its file holds a few numbers only.
    """
    torch = import_torch()
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    if value.is_nested or value.layout != torch.strided:
        return f"a {'nested' if value.is_nested else value.layout} tensor"
    if value.is_meta:
        return "a tensor without numbers (meta)"
    if value.dtype not in _dtypes():
        return f"a tensor of {value.dtype}"
    size = value.numel() * value.element_size()
    if size > value.untyped_storage().nbytes():
        return f"a tensor of {size:,} bytes of which the file holds fewer"
    return ""


@functools.cache
def _dtypes() -> dict[Any, np.dtype]:
    torch = import_torch()
    names = ("float64", "float32", "float16", "int64", "int32", "int16", "int8")
    numpy_dtypes = {getattr(torch, name): np.dtype(name) for name in (*names, "uint8")}
    return numpy_dtypes | {torch.bfloat16: np.dtype(ml_dtypes.bfloat16)}


def _dtype(value: Any) -> np.dtype:
    return _dtypes()[value.dtype]


def _read(load: Any, name: str) -> np.ndarray:
    # A copy, so that the mapped file can be let go: its pages count as memory in use.
    return np.array(_as_numpy(load()[name]))


def _as_numpy(value: Any) -> np.ndarray:
    torch = import_torch()
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _load_all(path: pathlib.Path) -> dict[str, Any]:
    content = _load(path)
    if not isinstance(content, dict):
        raise _unreadable(path, f"a {type(content).__name__}, not tensors by name")
    return content


def _load(path: pathlib.Path) -> Any:
    torch = import_torch()
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _check_stored(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # noqa: BLE001 - torch raises many kinds
        raise _unreadable(path, error) from error


def _check_stored(path: pathlib.Path) -> None:
    """Raises ValueError for a packed member, of which torch writes none."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its member {member.filename!r:.80} is compressed")


def _unreadable(path: pathlib.Path, why: object) -> errors.CheckpointError:
    return errors.CheckpointError(
        found=f"{path} cannot be read: {why}",
        expected="what torch's weights-only loading takes",
        do="Download the file again, or convert it to safetensors; a file that"
        " needs more than weights-only loading could run code",
    )


def import_torch() -> Any:
    """Returns the module torch.

    Raises:
      MissingExtraError: It is not installed.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise errors.MissingExtraError(
            found="no package torch",
            expected="it, to read a file that torch wrote",
            do='Run `pip install "elm_jax[torch]"`, or use safetensors',
        ) from error
    return torch
