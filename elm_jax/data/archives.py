"""Reads tar archives, compressed or not, as a stream, and checks their end.

Python's own reader takes a damaged header for the end of an archive, does not verify
the checksum of gzip in a stream, and believes every size. Here each is an error.
"""

import bz2
import gzip
import lzma
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

MOST_MEMBER_BYTES = 2**24
"""Of a file in an archive: 16 MiB. Each is a row, or templates."""
MOST_BYTES = 2**32
"""Of an archive, unpacked: 4 GiB."""
_MOST_HEADER_BYTES = 2**20
_PACKED = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_READ_BYTES = 2**16
_ZEROS = bytes(_READ_BYTES)  # `strip` takes a hundred times as long as to compare

# What reading raises if the file is damaged or is not an archive.
ERRORS = (
    *(ValueError, EOFError, OSError),
    *(tarfile.TarError, zlib.error, lzma.LZMAError),
)


def members(
    path: pathlib.Path, is_wanted: Callable[[str], bool]
) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the files in an archive, in their order.

    Damage may only show at the end, so use what was yielded only after the last one.

    Args:
      path: A tar archive, plain or compressed by gzip, bzip2 or xz.
      is_wanted: Says by name which files to read. Links and folders are never read.

    Raises:
      One of `ERRORS`: It is damaged, ends too early, or has more than
        `MOST_MEMBER_BYTES` in a file or `MOST_BYTES` in all.
    """
    with path.open("rb") as file:
        unpack: Any = _PACKED.get(file.read(2), open)
    with unpack(path, "rb") as file:
        limited: Any = _Limited(file, path)
        tar: Any = tarfile.open(  # noqa: SIM115 - it holds what `with` closes
            fileobj=limited, mode="r|", tarinfo=_Info
        )
        while (member := tar.next()) is not None:
            tar.members.clear()  # else it keeps all that it has seen
            if not (member.isfile() and is_wanted(member.name)):
                continue
            if member.size > MOST_MEMBER_BYTES or member.issparse():
                size = f"{member.name!r:.100} of {member.size:,} bytes"
                limit = f"at most {MOST_MEMBER_BYTES:,}, none of them left out"
                raise ValueError(f"{size} in {path.name}, expected {limit}")
            content = tar.extractfile(member)
            yield member.name, content.read() if content else b""
        _check_end(tar, path)


def _check_end(tar: tarfile.TarFile, path: pathlib.Path) -> None:
    """Reads what follows the end mark; the checksum of the compression comes last.

    Raises:
      ValueError: There is more than padding.
    """
    stream: Any = tar.fileobj
    while rest := stream.read(_READ_BYTES):
        if rest != _ZEROS[: len(rest)]:
            raise ValueError(f"{path.name} goes on after its end")


class _Limited:
    """A file of which no more than `MOST_BYTES` are read."""

    def __init__(self, file: Any, path: pathlib.Path) -> None:
        self._file, self._path, self._left = file, path, MOST_BYTES

    def read(self, size: int) -> bytes:
        """Returns as many bytes, fewer at the end."""
        content = self._file.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"{self._path.name} has more than {MOST_BYTES:,} bytes")
        return content


class _Info(tarfile.TarInfo):
    """A header that must be complete; only a block of zeros ends an archive."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: Any, errors: Any) -> "_Info":
        """Returns the header in a block, after a check of its sizes."""
        info = super().frombuf(buf, encoding, errors)
        is_header = not (info.isfile() or info.isdir() or info.issym())
        if info.size < 0 or (is_header and info.size > _MOST_HEADER_BYTES):
            raise tarfile.ReadError(f"a header of {info.size:,} bytes")
        return info

    @classmethod
    def fromtarfile(cls, *args: Any, **kwargs: Any) -> "_Info":
        """Returns the next header of an archive."""
        try:
            return super().fromtarfile(*args, **kwargs)
        except tarfile.HeaderError as error:
            # A block of zeros; Python's own reader stops without a word at any.
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise tarfile.ReadError(f"no whole header, but {error}") from error
