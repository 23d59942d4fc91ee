"""Text files as rows: JSON lines, CSV, lines; every reader opens files in one way.

Files are UTF-8, with or without a byte order mark. Bytes that are not UTF-8 become
characters that rendering refuses, row by row.
"""

import codecs
import csv
import gzip
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from elm_jax.data.records import ROW_ERRORS, Bad, Record, Row
from elm_jax.disk import json_files

RAGGED = "another number of fields than the header"
_FOREIGN_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
MOST_CHARS = 2**28
"""Of a file that is read whole, unpacked."""
MOST_RECORD_CHARS = 2**24
"""Of a line of JSON or a record of CSV."""


def open_text(path: pathlib.Path, *, newline: str | None = None) -> TextIO:
    """Returns an open text file, decompressed if its name ends in `.gz`.

    Raises:
      ValueError: It begins with the mark of UTF-16 or UTF-32.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        start = file.read(4)
    for mark, name in _FOREIGN_MARKS.items():
        if start.startswith(mark):
            raise ValueError(f"{path.name} is {name}; save it as UTF-8")
    return opener(
        path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline
    )


def read_text(path: pathlib.Path) -> str:
    """Returns a text file's content; all line ends become newlines, as usual in Python.

    Raises:
      ValueError: It has more than `MOST_CHARS`; a small compressed file may.
    """
    with open_text(path) as file:
        text = file.read(MOST_CHARS + 1)
    if len(text) > MOST_CHARS:
        raise ValueError(f"{path.name} has more than {MOST_CHARS:,} characters")
    return text


class Lines:
    """The lines of an open file, with a limit for records of several lines.

    Args:
      file: Open.
      path: Of it, for messages.
    """

    def __init__(self, file: TextIO, path: pathlib.Path) -> None:
        self._file, self._path = file, path
        self._number, self._left = 0, MOST_RECORD_CHARS

    def __iter__(self) -> Iterator[str]:
        """Yields the lines, with their ends.

        Raises:
          ValueError: The record has more than `MOST_RECORD_CHARS`.
        """
        while line := self._file.readline(self._left + 1):
            self._number += 1
            self._left -= len(line)
            if self._left < 0:
                raise ValueError(
                    f"line {self._number} of {self._path.name} goes on after"
                    f" {MOST_RECORD_CHARS:,} characters of one record"
                )
            yield line

    def begin(self) -> None:
        """Must be called when the next line begins a new record."""
        self._left = MOST_RECORD_CHARS


def read_lines(path: pathlib.Path) -> list[str]:
    """Returns the lines of a text file without line ends and without empty last lines.

    Unlike `str.splitlines`, it splits at line ends only, not at form feeds and such.
    """
    return read_text(path).rstrip("\n").split("\n")


def read_json(path: pathlib.Path) -> Any:
    """Returns the content of a JSON file."""
    return json_files.parse(read_text(path), is_untrusted=True)


def json_lines(paths: Sequence[pathlib.Path], split: str = "") -> Iterator[Row]:
    """Yields one row per line of UTF-8 JSON-lines files.

    Raises:
      ValueError: A line is no JSON, or has an end too far away; names file and line.
    """
    del split  # Each split has its own files.
    for path in paths:
        with open_text(path) as file:
            lines = Lines(file, path)
            for number, line in enumerate(lines, 1):
                lines.begin()
                if line.strip():
                    yield _parsed(line, path, number)


def _parsed(line: str, path: pathlib.Path, number: int) -> Row:
    try:
        return json_files.parse(line.rstrip("\n"), is_untrusted=True)
    except ValueError as error:
        raise ValueError(f"line {number} of {path.name}: {error}") from error


def csv_rows(paths: Sequence[pathlib.Path], split: str = "") -> Iterator[Row | Bad]:
    """Yields one row per record of UTF-8 CSV files with a header; values are text.

    A record with fewer or more fields than the header is bad.

    Raises:
      ValueError: Two columns share a name, a quote is never closed or is followed by
        more text, or a record is too long.
    """
    del split
    return delimited_rows(paths)


def delimited_rows(
    paths: Sequence[pathlib.Path],
    *,
    names: Sequence[str] = (),
    delimiter: str = ",",
    has_quotes: bool = True,
) -> Iterator[Row | Bad]:
    """Yields one row per record of files whose fields a character separates.

    Args:
      paths: The files.
      names: Of the fields, where files have no header.
      delimiter: Between fields.
      has_quotes: Whether fields may be in double quotes, as in CSV.

    Raises:
      ValueError: Two columns share a name, a quote is never closed or is followed by
        more text, or a record is too long.
    """
    quoting = csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
    # This limit is of the whole process; rendering counts rows that are too long.
    csv.field_size_limit(MOST_RECORD_CHARS)
    for path in paths:
        with open_text(path, newline="") as file:
            # Strict: otherwise a stray quote would swallow rows up to the next one.
            lines = Lines(file, path)
            reader = csv.reader(
                lines, delimiter=delimiter, quoting=quoting, strict=True
            )
            header: Sequence[str] = names
            for start, fields in _numbered(reader, path):
                lines.begin()
                if not header:
                    header = _checked_header(fields, path)
                elif len(fields) == len(header):
                    yield dict(zip(header, fields, strict=True))
                elif fields:
                    problem = f"{len(fields)} instead of {len(header)} fields"
                    yield Bad(RAGGED, f"{problem} in line {start} of {path.name}")


def _numbered(reader: Any, path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the records of a `csv.reader` with the number of their first line."""
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            is_open = str(error) == "unexpected end of data"
            problem = "a quote is never closed" if is_open else f"{error}"
            raise ValueError(
                f"the record that begins in line {start} of {path.name} is no CSV: "
                f"{problem} (noticed in line {reader.line_num})"
            ) from error
        if fields is None:
            return
        yield start, fields


def _checked_header(fields: Sequence[str], path: pathlib.Path) -> Sequence[str]:
    twice = sorted({name for name in fields if fields.count(name) > 1})
    if twice:
        raise ValueError(f"{path.name} has several columns named {', '.join(twice)}")
    return fields


def converted(
    records: Iterable[Record], convert: Callable[[Row], Record]
) -> Iterator[Record]:
    """Yields what `convert` makes of each row; other records are not changed.

    Raises:
      ValueError: `convert` fails for a row; the message says for which.
    """
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            yield record
            continue
        try:
            new_record = convert(record)
        except ROW_ERRORS as error:
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"row {number}, from 0, does not fit: {why}") from error
        yield new_record
