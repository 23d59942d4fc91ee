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
    others = [name for name, value in content.items() if not hasattr(value, "numpy")]
    if others:
        raise errors.CheckpointError(
            errors.explain(
                found=f"{path} holds other things than tensors: {', '.join(others)}",
                expected="a state dictionary",
                do="Name the file of the model's weights",
            )
        )
    load = functools.partial(_load_all, path)
    if not zipfile.is_zipfile(path):
        load = functools.cache(load)
    return {
        name: Tensor(
            tuple(value.shape),
            _as_numpy(value[..., :0] if value.ndim else value).dtype,
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
    if not hasattr(content, "numpy"):
        raise _unreadable(path, f"a {type(content).__name__}, not a tensor")
    return np.array(_as_numpy(content))


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
        return torch.load(
            path,
            map_location="cpu",
            weights_only=True,
            mmap=zipfile.is_zipfile(path),
        )
    except Exception as error:  # noqa: BLE001 - torch raises many kinds
        raise _unreadable(path, error) from error


def _unreadable(path: pathlib.Path, why: object) -> errors.CheckpointError:
    return errors.CheckpointError(
        errors.explain(
            found=f"{path} cannot be read: {why}",
            expected="what torch's weights-only loading takes",
            do="Download the file again, or convert it to safetensors; a file that"
            " needs more than weights-only loading could run code",
        )
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
            errors.explain(
                found="no package torch",
                expected="it, to read a file that torch wrote",
                do='Run `pip install "elm_jax[torch]"`, or use safetensors',
            )
        ) from error
    return torch
