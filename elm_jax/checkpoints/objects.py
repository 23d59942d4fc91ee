"""Objects of a bucket, or files below a folder, by TensorStore."""

import contextlib
import functools
import hashlib
import os
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import tensorstore as ts

from elm_jax import errors
from elm_jax.checkpoints import experts
from elm_jax.disk import json_files

_PART_BYTES = 2**26
_TRIES, _LOOK_SECS = 4, 60.0
_FILE_SECS = 3600.0


class Objects:
    """The objects below a URL, by key; each is written whole and read in parts.

    What goes wrong is an error of TensorStore, unless it happens within `telling`.

    Args:
      url: Of TensorStore; ends with a slash, and is touched by the methods only.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def list(self, prefix: str) -> list[str]:
        """Returns the keys below a prefix, sorted, but not those that mark folders.

        Raises:
          CheckpointError: They cannot be listed.
        """
        below = ts.KvStore.KeyRange(prefix, f"{prefix[:-1]}0" if prefix else "")
        with self.telling():
            store = open_store(self.url, tries=_TRIES)
            keys = store.list(below).result(timeout=_LOOK_SECS)
        names = sorted(key.decode(errors="replace") for key in keys)
        return [name for name in names if not name.endswith("/")]

    def try_write(self, key: str, content: bytes) -> None:
        """Writes a small object, and gives up after a minute."""
        store = open_store(self.url, tries=_TRIES)
        store.write(key, content).result(timeout=_LOOK_SECS)

    def write(self, key: str, content: bytes) -> None:
        """Writes an object; it replaces an object with the same key."""
        open_store(self.url).write(key, content).result(timeout=_FILE_SECS)

    def _read(self, key: str, start: int, end: int | None) -> Any:
        future = open_store(self.url).read(key, byte_range=slice(start, end))
        result = future.result(timeout=_FILE_SECS)
        if result.state != "value":
            raise ValueError(f"{key} is missing")
        return result

    def parts(self, key: str) -> Iterator[bytes]:
        """Yields an object's content; its size is not known, and may be any."""
        start = 0
        with contextlib.suppress(_BeyondEnd):
            while True:
                yield _in_range(lambda at=start: self._read(key, at, at + _PART_BYTES))
                start += _PART_BYTES
        # The rest is shorter than a part, perhaps empty. It is read with the byte
        # before it, as some stores refuse to read nothing.
        overlap = min(start, 1)
        yield self._read(key, start - overlap, None).value[overlap:]

    def small(self, key: str) -> bytes:
        """Returns the content of an object; ValueError if it is too large for JSON."""
        content = b""
        for part in self.parts(key):
            content += part
            if len(content) > json_files.MOST_BYTES:
                raise ValueError(f"{key} has more than {json_files.MOST_BYTES:,} bytes")
        return content

    def digest(self, key: str) -> str:
        """Returns the SHA-256 of an object's content: 64 hex digits."""
        digest = hashlib.sha256()
        for part in self.parts(key):
            digest.update(part)
        return digest.hexdigest()

    def state(self, key: str) -> str:
        """Returns what the store changes whenever an object is written."""
        return self._read(key, 0, 0).stamp.generation.hex()

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Makes CheckpointErrors, with what to do, of errors of reading and writing."""
        try:
            yield
        except experts.IO_ERRORS as error:
            raise errors.CheckpointError(
                # TensorStore's own reason comes before its details in brackets.
                found=f"{self.url}: {errors.first_line(error).split(' [')[0]}",
                expected="a bucket that is there, which this machine can reach and"
                " may list, read and write",
                do="Correct the URL, the network or the credentials: for gs:// as"
                " `gcloud auth application-default login` makes them, for s3:// as"
                " `aws configure` does",
            ) from error


@functools.cache
def _context() -> ts.Context:
    """Returns what all stores share: connections, credentials, what lies in memory."""
    return ts.Context()


def open_store(url: str, *, tries: int = 0) -> ts.KvStore:
    """Returns the store below a URL; `tries` limits TensorStore's own number."""
    context = _context()
    if tries:
        kinds = ("gcs_request_retries", "s3_request_retries")
        context = ts.Context({k: {"max_retries": tries} for k in kinds}, context)
    spec: Any = url
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and url.startswith("s3://"):
        parts = urllib.parse.urlsplit(url)
        path = urllib.parse.unquote(parts.path).removeprefix("/")
        spec = {"driver": "s3", "bucket": parts.netloc, "path": path}
        spec["endpoint"] = endpoint
    return ts.KvStore.open(spec, context=context).result()


class _BeyondEnd(Exception):
    """An object ends before what was asked for."""


def _in_range(read: Callable[[], Any]) -> bytes:
    try:
        return read().value
    except ValueError as error:
        if "OUT_OF_RANGE" in str(error):
            raise _BeyondEnd from error
        raise
