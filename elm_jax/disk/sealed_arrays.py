"""Arrays in a folder with the recipe they were made by, compared when they are read."""

import contextlib
import functools
import hashlib
import json
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.disk import files, folders, json_files, seals

Recipe = Mapping[str, Any]


class Array(NamedTuple):
    """An array that is not in memory.

    Attributes:
      shape: The array's shape.
      dtype: The array's dtype.
      parts: Gives so many rows of axis 0 at a time, at the end perhaps fewer; of an
        array without axes, the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Callable[[int], Iterator[np.ndarray]]


_SUFFIX = ".npy"  # of the names in a file of arrays
_ARRAYS, _RECORD = "arrays.npz", "record.json"
_FILE_HEAD = struct.Struct("<26xHH")  # of a zip's file: the lengths of what comes next
_DAMAGED = (ValueError, zipfile.BadZipFile, FileNotFoundError, errors.ElmError)


def folder_of(parent: pathlib.Path, name: str, recipe: Recipe) -> pathlib.Path:
    """Returns where arrays of a recipe lie, or will lie.

    Args:
      parent: Of all such folders.
      name: What people call them.
      recipe: JSON values that decide the arrays.
    """
    text = json.dumps(dict(recipe), sort_keys=True)
    return parent / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def write(
    folder: pathlib.Path, arrays: Mapping[str, np.ndarray], recipe: Recipe
) -> None:
    """Writes arrays; those that are there already stay.

    Args:
      folder: The folder that `folder_of` returns.
      arrays: The arrays by name.
      recipe: JSON values that decide the arrays.

    Raises:
      DataError: The folder cannot be written.
    """
    try:
        with folders.new_folder(folder) as partial:
            with (partial / _ARRAYS).open("wb") as file:
                in_rows = {n: np.asarray(a, order="C") for n, a in arrays.items()}
                np.savez(file, **in_rows)  # type: ignore[arg-type]
            content = {"arrays": _digest(partial / _ARRAYS), "recipe": dict(recipe)}
            text = json.dumps(seals.seal(content), indent=2)
            files.write_text(partial / _RECORD, text)
    except errors.ExistsError:
        return


def opened(folder: pathlib.Path, recipe: Recipe) -> dict[str, Array]:
    """Returns the arrays that `write` was given, of which none is in memory.

    The file as a whole is compared now, and each array once more when it is read. No
    file stays open between two parts, however many arrays are read side by side.

    Raises:
      DataError: They are not there, or damaged, or of another recipe; or the system
        does not let them be read.
    """
    with _reading(folder):
        _compare(folder, recipe)
        with zipfile.ZipFile(folder / _ARRAYS) as archive:
            infos = [i for i in archive.infolist() if i.filename.endswith(_SUFFIX)]
            return {
                info.filename.removesuffix(_SUFFIX): _array(folder, archive, info)
                for info in infos
            }


def _array(
    folder: pathlib.Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> Array:
    with archive.open(info) as stored:
        shape, dtype = _head(stored)
        head_bytes = stored.tell()
    num_bytes = head_bytes + math.prod(shape) * dtype.itemsize
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != num_bytes:
        raise ValueError(f"{info.filename} has other bytes than its shape tells")
    file_head = _read(folder, info.header_offset, _FILE_HEAD.size)
    place = info.header_offset + len(file_head) + sum(_FILE_HEAD.unpack(file_head))
    parts = functools.partial(_parts, folder, info, place, head_bytes, shape, dtype)
    return Array(shape, dtype, parts)


def _head(stored: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and dtype of an array; what comes next are its numbers."""
    version = np.lib.format.read_magic(stored)
    if version != (1, 0):
        raise ValueError(f"an array of version {version}")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stored)
    if dtype.hasobject or by_columns and len(shape) > 1:
        raise ValueError(f"an array of {dtype}, by columns: {by_columns}")
    return shape, dtype


def _parts(
    folder: pathlib.Path,
    info: zipfile.ZipInfo,
    place: int,
    head_bytes: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    rows: int,
) -> Iterator[np.ndarray]:
    """Yields an array's parts; between two of them it keeps no file open, and no part.

    Args:
      folder: The folder that `write` was given.
      info: What the zip tells of the array's file.
      place: Of this file in the zip.
      head_bytes: Of this file, before the numbers.
      shape: Of the array.
      dtype: Of the array.
      rows: Of each part.
    """
    with _reading(folder):
        head = _read(folder, place, head_bytes)
        place, checksum = place + head_bytes, zlib.crc32(head)
        for start in range(0, shape[0] if shape else 1, rows):
            part = (min(rows, shape[0] - start), *shape[1:]) if shape else ()
            held = [_read(folder, place, math.prod(part) * dtype.itemsize)]
            place, checksum = place + len(held[0]), zlib.crc32(held[0], checksum)
            yield np.frombuffer(held.pop(), dtype).reshape(part)
        if checksum != info.CRC:
            raise ValueError(f"{info.filename} has another checksum than was written")


def _read(folder: pathlib.Path, place: int, num_bytes: int) -> bytes:
    with (folder / _ARRAYS).open("rb") as file:
        file.seek(place)
        content = file.read(num_bytes)
    if len(content) != num_bytes:
        raise ValueError(f"{_ARRAYS} ends early")
    return content


@contextlib.contextmanager
def _reading(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise errors.DataError(
            found=f"{folder}: {errors.reason(error)}",
            expected="the files as they were written",
            do="Remove this folder: it is made again when it is needed",
        ) from error
    except OSError as error:  # such as too many open files, or no right to read
        raise errors.DataError(
            found=f"{folder}: {errors.reason(error)}",
            expected="files that the system lets this program read",
            do="See to what the system says, and start again: the files may be whole",
        ) from error


def _compare(folder: pathlib.Path, recipe: Recipe) -> None:
    record = seals.open_sealed(json_files.read_object(folder / _RECORD))
    if record.get("recipe") != json.loads(json.dumps(dict(recipe))):
        raise ValueError(f"{_RECORD} is of another recipe")
    if record.get("arrays") != _digest(folder / _ARRAYS):
        raise ValueError(f"{_ARRAYS} was changed after it was written")


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
