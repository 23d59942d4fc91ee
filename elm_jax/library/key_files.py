"""The files of an index's arrays, and the hashes by which its content is known."""

import hashlib
import io
import json
import math
import pathlib
import re
from collections.abc import Sequence

import numpy as np

# As `np.save` writes it.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)\{'descr': '<[fi]4', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9, ]{2,99})\), \} *\n",
    re.DOTALL,
)


def load(path: pathlib.Path) -> np.ndarray:
    """Returns an array of which `content_of` gave the file.

    Raises:
      ValueError: The file is no such array, or its size differs from what its header
        says. This is found before memory is taken. NumPy's own reader of headers
        evaluates Python literals.
    """
    with path.open("rb") as file:
        header = _HEADER.match(file.read(256))
    if not header:
        raise ValueError(f"{path.name}: no array of float32 or int32")
    shape = [int(size) for size in header["shape"].split(b",") if size.strip()]
    start, size = 10 + int.from_bytes(header["length"], "little"), path.stat().st_size
    if header.end() != start or start + math.prod(shape) * 4 != size:
        raise ValueError(f"{path.name}: {size:,} bytes for {shape} numbers")
    return np.load(path, allow_pickle=False)


def content_of(array: np.ndarray) -> bytes:
    """Returns the file of an array."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def hash_of_keys(keys: np.ndarray) -> str:
    """Returns what `index.IndexEntry.keys_sha256` is of an expert's keys."""
    return hashlib.sha256(np.ascontiguousarray(keys).data).hexdigest()


def hash_of_texts(texts: Sequence[str]) -> str:
    """Returns what `index.IndexEntry.texts_sha256` is of the texts of its keys."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
