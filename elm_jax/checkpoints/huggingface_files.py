"""Opens model folders of Hugging Face: configuration, and tensors by name."""

import contextlib
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import ml_dtypes
import numpy as np
import safetensors

from elm_jax import errors, paths
from elm_jax.checkpoints import torch_files
from elm_jax.checkpoints.tensors import Tensor
from elm_jax.disk import json_files

CONFIG = "config.json"
GENERATION = "generation_config.json"
VOCABULARY = "spiece.model"
SAFETENSORS = "model.safetensors"
TORCH = "pytorch_model.bin"
_INDEX = ".index.json"
_MOST_NAME_BYTES = 255  # what file systems take
_MOST_JSON_BYTES = 2**26  # an index has a line a tensor
_KINDS = (SAFETENSORS, SAFETENSORS + _INDEX, TORCH, TORCH + _INDEX)
_INTEGERS = (("I", "int"), ("U", "uint"))
_DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F64": np.dtype(np.float64),
    # No numbers of a model; known, to be refused by name.
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    **{f"{s}{n}": np.dtype(f"{k}{n}") for s, k in _INTEGERS for n in (8, 16, 32, 64)},
    "BOOL": np.dtype(np.bool_),
}
# An AttributeError is what safetensors raises for dtypes that numpy lacks.
_READING = (OSError, ValueError, TypeError, AttributeError, safetensors.SafetensorError)
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Model(NamedTuple):
    """An opened model folder.

    Attributes:
      settings: What config.json has.
      generation: Its generation_config.json, empty if there is none.
      tensors: By name, not in memory yet.
    """

    settings: dict[str, Any]
    generation: dict[str, Any]
    tensors: dict[str, Tensor]


def open_folder(folder: pathlib.Path) -> Model:
    """Returns the configuration and the tensors, not in memory yet.

    Safetensors are preferred; `.bin` files are read by torch's weights-only loading.

    Raises:
      CheckpointError: A file is missing or torn.
      MissingExtraError: There are `.bin` files only, and torch is not installed.
    """
    settings = read_json(folder / CONFIG)
    has_generation = (folder / GENERATION).is_file()
    generation = read_json(folder / GENERATION) if has_generation else {}
    kind = next((kind for kind in _KINDS if (folder / kind).is_file()), None)
    if kind is None:
        raise errors.CheckpointError(
            found=f"{folder} holds {_listing(folder)}",
            expected=f"weights: one of {', '.join(_KINDS)}",
            do="Correct the path, or download the whole folder",
        )
    files = _shards(folder / kind) if kind.endswith(_INDEX) else [folder / kind]
    open_file = torch_files.open_file if TORCH in kind else open_safetensors
    tensors: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    twice: list[str] = []
    for path in files:
        file_tensors = open_file(path)
        twice += [name for name in file_tensors if name in places]
        places = dict.fromkeys(file_tensors, path.name) | places
        tensors |= file_tensors
    if kind.endswith(_INDEX):
        _check_index(folder / kind, places)
    if twice:
        raise _torn(f"{folder} with tensors in several files: {_few(twice)}")
    return Model(settings, generation, tensors)


def find_folder(
    source: str,
    revision: str | None = None,
    download: Callable[..., str] | None = None,
) -> pathlib.Path:
    """Returns the folder of a model, downloaded if `source` is a name on the Hub.

    Args:
      source: A folder's path, or a name such as `google/flan-t5-small`.
      revision: Branch, tag or commit on the Hub; None for its main branch.
      download: `huggingface_hub.snapshot_download` or its like.

    Raises:
      CheckpointError: Neither there nor to be had.
      MissingExtraError: huggingface_hub is needed and not installed.
    """
    folder = paths.absolute(source)
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(source):
        raise errors.CheckpointError(
            found=f"no folder {source}",
            expected="a model folder, or a name on the Hugging Face Hub",
            do="Correct the path",
        )
    fetch = functools.partial(
        download or _import_download(source), source, revision=revision
    )
    try:
        # Most repositories hold the weights several times, in several formats.
        common = [CONFIG, GENERATION, VOCABULARY]
        patterns = [*common, "model*.safetensors", SAFETENSORS + _INDEX]
        downloaded = pathlib.Path(fetch(allow_patterns=patterns))
        if not any((downloaded / kind).is_file() for kind in _KINDS[:2]):
            patterns = [*common, "pytorch_model*.bin", TORCH + _INDEX]
            downloaded = pathlib.Path(fetch(allow_patterns=patterns))
    except Exception as error:  # noqa: BLE001 - network, cache and Hub errors vary
        raise errors.CheckpointError(
            found=f"no folder {source}, and the Hub says: {error}",
            expected="a model folder, or a name on the Hugging Face Hub",
            do="Correct the path or name, or download the folder by hand",
        ) from error
    return downloaded


def _import_download(source: str) -> Callable[..., str]:
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise errors.MissingExtraError(
            found=f"no folder {source}, and no package huggingface_hub",
            expected="a model folder, or the package to download one by name",
            do='Correct the path, or run `pip install "elm_jax[hub]"`',
        ) from error
    return huggingface_hub.snapshot_download


def open_safetensors(path: pathlib.Path) -> dict[str, Tensor]:
    """Returns the tensors of one file, not in memory yet, or raises CheckpointError."""
    with _reading(path), safetensors.safe_open(path, "numpy") as file:
        tensors = {}
        for name in file.keys():  # noqa: SIM118 - no mapping
            facts = file.get_slice(name)
            dtype = _DTYPES.get(facts.get_dtype(), np.dtype(np.void))
            read = functools.partial(_read_safetensors, path, name)
            tensors[name] = Tensor(tuple(facts.get_shape()), dtype, read)
    return tensors


def _read_safetensors(path: pathlib.Path, name: str) -> np.ndarray:
    # Opened anew each time: pages of a mapped file would count as memory in use.
    with _reading(path), safetensors.safe_open(path, "numpy") as file:
        return file.get_tensor(name)


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except _READING as error:
        raise errors.CheckpointError(
            found=f"{path} cannot be read: {error}",
            expected="a file of a Hugging Face model folder",
            do="Correct the path, or download the file again",
        ) from error


def _shards(index: pathlib.Path) -> list[pathlib.Path]:
    names = sorted(set(_weight_map(index).values()))
    paths = [index.parent / name for name in names]
    absent = [path.name for path in paths if not path.is_file()]
    if absent or not paths:
        raise errors.CheckpointError(
            found=f"{index} names {len(paths)} files; not there: "
            f"{', '.join(absent) or 'any'}",
            expected="every shard beside its index",
            do="Download the whole folder",
        )
    return paths


class _Index(TypedDict):
    weight_map: dict[str, str]


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    """Returns the file of each tensor by its name."""
    with _reading(index):
        content = read_json(index)
        if problems := json_files.misfits(content, _Index, known_only=True):
            raise ValueError("; ".join(problems))
        outside = sorted({n for n in content["weight_map"].values() if not _is_name(n)})
        if outside:
            raise ValueError(f"weight_map names {outside[0]!r:.60}, no file beside it")
        return content["weight_map"]


def _is_name(text: str) -> bool:
    """Returns whether a text is a file's name, and no path."""
    is_one = text.isprintable() and pathlib.PurePath(text).parts == (text,) != ("..",)
    return is_one and len(text.encode()) <= _MOST_NAME_BYTES


def _check_index(index: pathlib.Path, places: dict[str, str]) -> None:
    weight_map = _weight_map(index)
    wrong = sorted(
        name
        for name in weight_map.keys() | places.keys()
        if weight_map.get(name) != places.get(name)
    )
    if wrong:
        raise _torn(f"{index} and its shards differ in: {_few(wrong)}")


def _torn(problem: str) -> errors.CheckpointError:
    return errors.CheckpointError(
        found=problem,
        expected="every tensor in one file, and in the one that the index names",
        do="Download the whole folder again",
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the mapping in a file, or raises CheckpointError."""
    with _reading(path):
        return json_files.read_object(path, most_bytes=_MOST_JSON_BYTES)


def _listing(folder: pathlib.Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
