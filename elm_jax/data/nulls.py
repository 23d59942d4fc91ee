"""Null and NaN in rows: templates may test them, but must not print them.

No dataset means the texts `None` and `nan`. In the rows that a Jinja template sees,
`NULL` replaces them: it is false and equal to none, and every way to turn it into text
is an error.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

_PLAIN = frozenset((str, int, bool, bytes))


class NullError(jinja2.TemplateRuntimeError):
    """A template prints a value that is missing."""


class Null:
    """A missing value."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return is_null(other)

    def __hash__(self) -> int:
        return hash(None)

    def __str__(self) -> str:
        raise NullError("a template prints a field, or an item of one, without a value")

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return str(self)


NULL = Null()


def is_null(value: Any) -> bool:
    """Returns whether a value is null, NaN or `NULL`."""
    if value is None or isinstance(value, Null):
        return True
    return isinstance(value, float) and value != value


def has_null(value: Any) -> bool:
    """Returns whether a value is or contains a null."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) in _PLAIN:
            continue
        if isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, Mapping):
            waiting += item.values()
        elif is_null(item):
            return True
    return False


def with_nulls(value: Any) -> Any:
    """Returns a value with `NULL` in place of each null in it."""
    if isinstance(value, Mapping):
        return {key: with_nulls(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = (with_nulls(item) for item in value)
        return list(items) if isinstance(value, list) else tuple(items)
    return NULL if is_null(value) else value


def each_replaced(value: Any, stand_in: Null) -> Iterator[Any]:
    """Yields a value once for each null in it, with that null replaced."""
    if type(value) in _PLAIN:
        return
    if is_null(value):
        yield stand_in
    elif isinstance(value, Mapping):
        for key, item in value.items():
            for replaced in each_replaced(item, stand_in):
                yield {**value, key: replaced}
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            for replaced in each_replaced(item, stand_in):
                items = [*value[:i], replaced, *value[i + 1 :]]
                yield items if isinstance(value, list) else tuple(items)


def text_of(value: Any) -> str:
    """Returns a value as text; raises NullError for a null."""
    return str(NULL if is_null(value) else value)
