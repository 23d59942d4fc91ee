"""JSON of files: read in one way, whatever a file holds.

Each file that a user can have may be cut, huge, deep, or of other types than were
written. What is wrong is a ValueError with its place; whoever reads a kind of file
makes the typed error of it.
"""

import collections
import dataclasses
import functools
import itertools
import json
import math
import pathlib
import stat
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from elm_jax import fields

MOST_BYTES = 2**24
"""Of a file that is read whole: 16 MiB. The largest that we write have a few."""
MOST_LINE_BYTES = 2**20
MOST_DEPTH = 64
"""Levels of lists and objects within each other; ours have fewer than ten."""
_TOO_DEEP = f"more than {MOST_DEPTH} lists or objects within each other"
_MOST_DIGITS = 19  # of a whole number: what 64 bits hold
_SHOWN = 60
_MOST_TOLD = 5  # of misfits


def parse(content: bytes | str, *, is_untrusted: bool = False) -> Any:
    """Returns the value of a JSON text, in UTF-8 with or without a byte order mark.

    Numbers are finite and fit into 64 bits, no object has a key twice, and every text
    can be written again.

    Args:
      content: The text.
      is_untrusted: Whether others wrote it, as rows: `NaN` is a null, as some programs
        write it, whole numbers have any length, and half a character may be there.

    Raises:
      ValueError: It is no such text; says where.
    """
    try:
        return _parse(content, is_untrusted)
    except RecursionError:
        why = _TOO_DEEP
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in error.doc else ""
        place = f"{line}character {error.colno}"
        why = f"no JSON: {error.msg} ({place})"
    except UnicodeDecodeError as error:
        why = f"no UTF-8: byte {error.start}"
    except UnicodeEncodeError:
        # Half of a pair of surrogates; bytes of a path that are no UTF-8 may come so.
        why = "a text with half a character (\\ud800 to \\udfff)"
    raise ValueError(why)


def _parse(content: bytes | str, is_untrusted: bool) -> Any:
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    if text.startswith("\ufeff"):
        raise json.JSONDecodeError("Unexpected UTF-8 BOM", text, 0)
    value = _decoder(is_untrusted).decode(text)
    check_depth(text, value)
    if "\\u" in text and not is_untrusted:
        json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return value


@functools.cache
def _decoder(is_untrusted: bool) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_object,
        parse_int=int if is_untrusted else _int,
        parse_float=_float,
        parse_constant=_float_or_nan if is_untrusted else _float,
    )


def check_depth(text: str, value: Any) -> None:
    """Raises ValueError if a JSON value has more than `MOST_DEPTH` levels.

    Args:
      text: What the value was read from.
      value: The value.
    """
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    level, depth = [value], 0
    while nodes := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(_TOO_DEEP)
        level = [
            item
            for node in nodes
            for item in (node.values() if isinstance(node, dict) else node)
        ]


def read(path: pathlib.Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """Returns the value in a JSON file.

    Raises:
      OSError: It cannot be read.
      ValueError: It is no JSON, as `parse` says, no file, or larger than `most_bytes`.
    """
    return parse(read_bytes(path, most_bytes=most_bytes))


def read_object(path: pathlib.Path, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Returns the object in a JSON file; raises as `read`, also for other values."""
    value = read(path, most_bytes=most_bytes)
    if not isinstance(value, dict):
        raise ValueError(f"{kind(value)} instead of an object")
    return value


def read_bytes(path: pathlib.Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Returns the content of a file of text.

    Raises:
      OSError: It cannot be read.
      ValueError: It is no file, such as a pipe, or larger than `most_bytes`.
    """
    facts = path.stat()
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(f"{path} is a folder")
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("no file, but a pipe or device")
    if facts.st_size > most_bytes:
        raise ValueError(f"{facts.st_size:,} bytes, more than {most_bytes:,}")
    return path.read_bytes()


class Line(NamedTuple):
    """A line of a JSON-lines file.

    Attributes:
      number: The line's number in the file, from 1.
      value: What it holds.
    """

    number: int
    value: Any


def lines(
    path: pathlib.Path, check: Callable[[Any], str] = lambda _: ""
) -> Iterator[Line]:
    """Yields the lines of a JSON-lines file of ours.

    A last line without an end that cannot be read is what a kill, a crash or a full
    disk left: it is left out, and standard error told so.

    Args:
      path: Of the file.
      check: Returns what is wrong with a value, or "".

    Raises:
      OSError: The file cannot be read.
      ValueError: Another line is no JSON or is wrong; says which.
    """
    *whole, tail = read_bytes(path, most_bytes=sys.maxsize).split(b"\n")
    for number, line in enumerate(whole, 1):
        yield Line(number, _parse_line(line, number, check))
    if tail:
        try:
            last = _parse_line(tail, len(whole) + 1, check)
        except ValueError as error:
            tell_cut(path, error)
        else:
            yield Line(len(whole) + 1, last)


def tell_cut(path: pathlib.Path, why: object) -> None:
    """Says on standard error that a file's last line is left out."""
    text = f"{path}: the last line is left out, as it was never finished ({why})"
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _parse_line(line: bytes, number: int, check: Callable[[Any], str]) -> Any:
    try:
        if len(line) > MOST_LINE_BYTES:
            raise ValueError(f"{len(line):,} bytes, more than {MOST_LINE_BYTES:,}")
        value = parse(line)
        if problem := check(value):
            raise ValueError(problem)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    return value


def misfits(
    content: Any,
    of: type,
    *,
    added_later: Collection[str] = (),
    known_only: bool = False,
) -> list[str]:
    """Returns what is wrong with the JSON value of a dataclass or TypedDict.

    Lists serve as tuples. Ranges in annotations hold.

    Args:
      content: The value.
      of: The type, whose annotations tell what each field may hold.
      added_later: Names of fields that may be missing, as those that a TypedDict
        says are not required.
      known_only: Whether other fields are none of the reader's business.
    """
    if not isinstance(content, dict):
        return [f"{kind(content)} instead of an object"]
    names, kinds = tuple(content), tuple(map(type, content.values()))
    wrong_names, doubtful = _by_shape(of, names, kinds, tuple(added_later), known_only)
    wrong = (
        text
        for name, hint in doubtful
        for text in _misfits_within(name, content[name], hint)
    )
    return [*wrong_names, *itertools.islice(wrong, _MOST_TOLD)]


@functools.lru_cache(maxsize=256)
def _by_shape(
    of: type,
    names: tuple[str, ...],
    kinds: tuple[type, ...],
    added_later: tuple[str, ...],
    known_only: bool,
) -> tuple[list[str], list[tuple[str, Any]]]:
    """Returns problems of an object's names, and the names whose values to check.

    That is, with their annotations, those of which not every value of its type fits.
    The lines of a file share a few shapes.
    """
    hints = _hints(of)
    optional = {*added_later, *getattr(of, "__optional_keys__", ())}
    lacking = [name for name in hints if name not in names]
    missing = [f"{name} is missing" for name in lacking if name not in optional]
    undeclared = () if known_only else set(names) - hints.keys()
    unknown = [
        f"{name if name.isidentifier() else shown(name)} is unknown"
        for name in sorted(undeclared)
    ]
    kind_of = dict(zip(names, kinds, strict=True))
    doubtful = [
        (name, hint)
        for name, hint in hints.items()
        if name in kind_of and kind_of[name] not in _plain_types(hint)
    ]
    return missing + unknown, doubtful


@functools.cache
def _plain_types(hint: Any) -> frozenset[type]:
    """Returns types of which every value fits an annotation."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, typing.NotRequired):
        return frozenset[type]().union(*map(_plain_types, typing.get_args(hint)))
    if hint is float:
        return frozenset((float, int))
    return frozenset((hint,) if hint in (str, int, bool, types.NoneType) else ())


def _misfits_within(place: str, value: Any, hint: Any) -> Iterator[str]:
    """Yields problems of a value, and of objects within it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.NotRequired:
        yield from _misfits_within(place, value, arguments[0])
    elif _is_object(hint):
        for text in misfits(value, hint, known_only=typing.is_typeddict(hint)):
            yield f"{place}: {text}"
    elif origin is tuple and _is_object(arguments[0]) and isinstance(value, list):
        for i, item in enumerate(value):
            yield from _misfits_within(f"{place}[{i}]", item, arguments[0])
    elif origin is dict and _is_object(arguments[1]) and isinstance(value, dict):
        for key, item in value.items():
            yield from _misfits_within(f"{place}[{shown(key)}]", item, arguments[1])
    elif not fits(value, hint):
        yield f"{place} is {shown(value)}"


def _is_object(hint: Any) -> bool:
    return typing.is_typeddict(hint) or dataclasses.is_dataclass(hint)


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a JSON value may stand where an annotation is.

    >>> fits([1, 2], tuple[int, ...]), fits(True, int), fits({"a": "x"}, dict[str, int])
    (True, False, False)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is tuple:
        if not isinstance(value, list):
            return False
        if arguments[1:] == (...,):
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin in (dict, Mapping):
        return isinstance(value, dict) and (
            _plain_types(arguments[1]).issuperset(map(type, value.values()))
            or all(fits(item, arguments[1]) for item in value.values())
        )
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in arguments)
    return fields.problem(value, hint) == ""


@functools.cache
def _hints(of: type) -> dict[str, Any]:
    hints = typing.get_type_hints(of, include_extras=True)
    if dataclasses.is_dataclass(of):
        names = {field.name for field in dataclasses.fields(of)}
        return {name: hint for name, hint in hints.items() if name in names}
    return hints


def kind(value: Any) -> str:
    """Returns what a JSON value is, in words.

    >>> kind([1]), kind(None), kind("x")
    ('a list', 'null', 'a text')
    """
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def shown(value: Any) -> str:
    """Returns the start of a JSON value as text, on one line and printable.

    >>> shown({"a": [1, "x"]})
    "{'a': [1, 'x']}"
    """
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    by_name = dict(pairs)
    if len(by_name) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = shown(max(counts, key=counts.__getitem__))
        raise ValueError(f"the key {twice} {max(counts.values())} times in one object")
    return by_name


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:_SHOWN]}, which is not finite")
    return value


def _float_or_nan(text: str) -> float:
    return math.nan if text == "NaN" else _float(text)
