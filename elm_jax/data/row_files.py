"""Text files as rows: JSON lines, CSV, lines; every reader opens files in one way.

Files are UTF-8, with or without a byte order mark. Bytes that are not UTF-8 become
characters that rendering refuses, row by row.
"""

import codecs
import csv
import gzip
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from elm_jax.data.records import ROW_ERRORS, Bad, Record, Row

RAGGED = "another number of fields than the header"
_FOREIGN_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# The largest that every platform takes; the csv module's own is 131,072 characters.
_FIELD_LIMIT = 2**31 - 1


def open_text(path: pathlib.Path, *, newline: str | None = None) -> TextIO:
    """Returns an open text file, unpacked if its name ends in `.gz`.

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
    """Returns a text file's content; line ends are as everywhere in Python."""
    with open_text(path) as file:
        return file.read()


def read_lines(path: pathlib.Path) -> list[str]:
    """Returns a text file's lines without their ends, empty ones at its end left out.

    Unlike `str.splitlines`, at nothing but line ends.
    """
    return read_text(path).rstrip("\n").split("\n")


def read_json(path: pathlib.Path) -> Any:
    """Returns the content of a JSON file."""
    return json.loads(read_text(path))


def json_lines(paths: Sequence[pathlib.Path], split: str = "") -> Iterator[Row]:
    """Yields one row per line of UTF-8 JSON-lines files.

    Raises:
      ValueError: A line is no JSON; names file and line.
    """
    del split  # Each split has its own files.
    for path in paths:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parsed(line, path, number)


def _parsed(line: str, path: pathlib.Path, number: int) -> Row:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        where = f"line {number} of {path.name}"
        raise ValueError(
            f"{where} is no JSON: {error.msg} at character {error.pos + 1} of it"
        ) from error


def csv_rows(paths: Sequence[pathlib.Path], split: str = "") -> Iterator[Row | Bad]:
    """Yields one row per record of UTF-8 CSV files with a header; values are text.

    A record with fewer or more fields than the header is bad.

    Raises:
      ValueError: Two columns share a name, or a quote is never closed, or is
        followed by more text.
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
    """Yields one row per record of files whose fields a character parts.

    Args:
      paths: The files.
      names: Of the fields, where files have no header.
      delimiter: Between fields.
      has_quotes: Whether fields may stand in double quotes, as in CSV.

    Raises:
      ValueError: As `csv_rows`.
    """
    quoting = csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
    # It holds for the whole process: rendering counts the rows that are too long.
    csv.field_size_limit(_FIELD_LIMIT)
    for path in paths:
        with open_text(path, newline="") as file:
            # Strict: else a stray quote swallows rows up to the next one.
            reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
            header: Sequence[str] = names
            for start, fields in _numbered(reader, path):
                if not header:
                    header = _checked_header(fields, path)
                elif len(fields) == len(header):
                    yield dict(zip(header, fields, strict=True))
                elif fields:
                    told = f"{len(fields)} instead of {len(header)} fields"
                    yield Bad(RAGGED, f"{told} in line {start} of {path.name}")


def _numbered(reader: Any, path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the records of a `csv.reader` with the number of their first line."""
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            is_open = str(error) == "unexpected end of data"
            told = "a quote is never closed" if is_open else f"{error}"
            raise ValueError(
                f"the record that begins in line {start} of {path.name} is no CSV: "
                f"{told} (noticed in line {reader.line_num})"
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
    """Yields what `convert` makes of each row; what is no row is passed on.

    Raises:
      ValueError: `convert` fails for a row; says for which.
    """
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            yield record
            continue
        try:
            made = convert(record)
        except ROW_ERRORS as error:
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"row {number}, from 0, does not fit: {why}") from error
        yield made
