"""Null and NaN in rows: what templates may test, and nothing may print.

Their texts, `None` and `nan`, are what no dataset means. In a row that a Jinja template
sees, `NULL` stands for them: false, equal to none, and an error as soon as its text is
asked for, whichever way that is.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

_PLAIN = frozenset((str, int, bool, bytes))


class NullError(jinja2.TemplateRuntimeError):
    """A template prints a value that is not there."""


class Null:
    """A value that is not there."""

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
    """Returns whether a value is null, NaN or what stands for them."""
    if value is None or isinstance(value, Null):
        return True
    return isinstance(value, float) and value != value


def has_null(value: Any) -> bool:
    """Returns whether there is a null in a value or in what it holds."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if type(one) in _PLAIN:
            continue
        if isinstance(one, (list, tuple)):
            waiting += one
        elif isinstance(one, Mapping):
            waiting += one.values()
        elif is_null(one):
            return True
    return False


def with_nulls(value: Any) -> Any:
    """Returns a value with `NULL` in place of each null that it holds."""
    if isinstance(value, Mapping):
        return {key: with_nulls(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = (with_nulls(item) for item in value)
        return list(items) if isinstance(value, list) else tuple(items)
    return NULL if is_null(value) else value


def each_replaced(value: Any, stand_in: Null) -> Iterator[Any]:
    """Yields a value once for each null that it holds, with another in its place."""
    if type(value) in _PLAIN:
        return
    if is_null(value):
        yield stand_in
    elif isinstance(value, Mapping):
        for key, item in value.items():
            for other in each_replaced(item, stand_in):
                yield {**value, key: other}
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            for other in each_replaced(item, stand_in):
                made = [*value[:i], other, *value[i + 1 :]]
                yield made if isinstance(value, list) else tuple(made)


def text_of(value: Any) -> str:
    """Returns a value as text; raises NullError if there is none."""
    return str(NULL if is_null(value) else value)
