"""What a field of a configuration may hold: its type, its range, its kind of path.

Ranges are part of annotations, `batch_size: fields.Count`, so that each is declared
once: `check` reads them when a value is made, and `--help` shows them.
"""

import dataclasses
import functools
import inspect
import math
import struct
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from elm_jax import errors, paths


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that a field may have; never infinite ones, and never NaN.

    What a field of type float holds must also be in it when rounded to float32.

    Attributes:
      least: The least.
      most: The greatest.
      is_open: Whether `least` itself is left out.
      is_open_above: Whether `most` itself is left out.
      also: A number outside that is allowed, too.
    """

    least: float = -math.inf
    most: float = math.inf
    is_open: bool = False
    is_open_above: bool = False
    also: float | None = None

    def __contains__(self, value: float) -> bool:
        """Returns whether a number is in the range."""
        if value == self.also:
            return True
        above = value > self.least if self.is_open else value >= self.least
        below = value < self.most if self.is_open_above else value <= self.most
        is_finite = isinstance(value, int) or math.isfinite(value)
        return is_finite and above and below

    def __str__(self) -> str:
        """Returns the range in words, such as `at least 1` or `in [0, 1)`."""
        text = f"{'above' if self.is_open else 'at least'} {self.least:,g}"
        if self.least == -math.inf:
            text = "finite"
        elif _MUCH <= self.most < math.inf:
            text += f" and below 2**{math.log2(self.most):g}"
        elif self.most < math.inf:
            left = "(" if self.is_open else "["
            right = ")" if self.is_open_above else "]"
            text = f"in {left}{self.least:,g}, {self.most:,g}{right}"
        return text if self.also is None else f"{text}, or {self.also:g}"


# As `numpy.finfo` has them, which takes a tenth of a second to import.
_FLOAT32 = struct.Struct("<f")
_FLOAT32_MOST, _FLOAT32_LEAST = (2 - 2.0**-23) * 2.0**127, 2.0**-126
_MUCH = 2**16
_MOST = 2**31  # Counts live in 32 bits on devices, and more is a slip.

Count = Annotated[int, Range(1, _MOST, is_open_above=True)]
CountOrNone = Annotated[int, Range(0, _MOST, is_open_above=True)]
CountOrAll = Annotated[int, Range(1, _MOST, is_open_above=True, also=-1)]
Length = Annotated[int, Range(2, _MOST, is_open_above=True)]
"""Tokens of a text, its end token included."""
Sentinels = Annotated[int, Range(0, 2**16, is_open_above=True)]
Layers = Annotated[int, Range(1, 1024)]
"""Forty times what the deepest T5 has; conversions name each one."""
Bytes = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32, is_open_above=True)]
"""JAX reads 32 bits of a seed: 2**32 would be another name for 0."""
Finite = Annotated[float, Range()]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, is_open=True)]
Seconds = Annotated[float, Range(0, _MOST, is_open=True, is_open_above=True)]
Scale = Annotated[float, Range(0, _MOST, is_open=True, is_open_above=True)]
"""A factor; float32 holds its products with numbers of a model."""
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, is_open_above=True)]
ShareAboveZero = Annotated[float, Range(0, 1, is_open=True)]


class Field(typing.NamedTuple):
    """A field of a configuration dataclass.

    Attributes:
      name: The field's name.
      hint: The field's type annotation.
      default: Its default; `dataclasses.MISSING` if it has to be given.
    """

    name: str
    hint: Any
    default: Any


@functools.cache
def of(part: type) -> tuple[Field, ...]:
    """Returns the fields of a dataclass, with what their annotations say."""
    hints = typing.get_type_hints(part, include_extras=True)
    all_fields = []
    for field in dataclasses.fields(part):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        all_fields.append(Field(field.name, hints[field.name], default))
    return tuple(all_fields)


def parts(hint: Any) -> Iterator[type]:
    """Yields the dataclasses that a field with such an annotation may hold.

    Of an abstract one, such as `MergeMethod`, those that extend it, as far as they are
    imported.
    """
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if inspect.isabstract(hint):
            for kind in hint.__subclasses__():
                yield from parts(kind)
        else:
            yield hint
    for argument in typing.get_args(hint):
        yield from parts(argument)


def check(part: Any, *, name: str = "") -> None:
    """Raises ConfigError if a field of a dataclass has a value that it may not have.

    All of them are named, with what each may hold. Dataclasses within are checked, too.

    Args:
      part: The dataclass.
      name: What messages call it, its class by default.
    """
    name = name or type(part).__name__
    problems = {
        field.name: problem(getattr(part, field.name), field.hint)
        for field in of(type(part))
    }
    refuse(part, {n: text for n, text in problems.items() if text}, name=name)
    for field in of(type(part)):
        value = getattr(part, field.name)
        if _is_dataclass(value):
            check(value)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if _is_dataclass(item):
                    check(item, name=f"{name}.{field.name}[{key!r}]")


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def refuse(
    part: Any, wrong: Mapping[str, str], *, of_kind: str = "", name: str = ""
) -> None:
    """Raises ConfigError if any field of a dataclass is wrong.

    Args:
      part: The dataclass.
      wrong: What would be right, by the name of the field.
      of_kind: What else decides what is right, in words.
      name: What the message calls the dataclass, its class by default.
    """
    if wrong:
        name = name or type(part).__name__
        values = [f"{name}.{field} = {getattr(part, field)!r:.100}" for field in wrong]
        raise errors.ConfigError(
            found=f"{', '.join(values)}{of_kind and f', {of_kind}'}",
            expected="; ".join(f"{n}: {text}" for n, text in wrong.items()),
            do=f"Correct {'this field' if len(wrong) == 1 else 'these fields'} of"
            f" {name} in the gin file or flag",
        )


def describe(hint: Any) -> str:
    """Returns an annotation in words.

    >>> describe(Bytes), describe(float | None), describe(Share)
    ('int, at least 1', 'float or None', 'float, in [0, 1]')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{describe(arguments[0])}, {arguments[1]}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return f"tuple of {describe(arguments[0])}"
    if origin is Mapping:
        return f"{{{describe(arguments[0])}: {describe(arguments[1])}}}"
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def problem(value: Any, hint: Any) -> str:
    """Returns what a value should be by its annotation, or "" if it is."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        plain, meaning = arguments[0], arguments[1]
        if problem(value, plain):
            return describe(hint)
        if isinstance(meaning, paths.Kind):
            return meaning.wrong(value)
        if value not in meaning:
            return describe(hint)
        if plain is float and _as_float32(value) not in meaning:
            return f"{describe(hint)}, also as float32: now {_as_float32(value):g}"
        return ""
    if origin in (typing.Union, types.UnionType):
        problems = [problem(value, choice) for choice in arguments]
        if not all(problems):
            return ""
        # Of a pattern or several, say what is wrong with the several.
        fitting = [
            p for p, c in zip(problems, arguments, strict=True) if _is_like(value, c)
        ]
        return fitting[0] if len(fitting) == 1 else describe(hint)
    if origin is typing.Literal:
        is_allowed = any(_is_same(value, choice) for choice in arguments)
        return "" if is_allowed else describe(hint)
    if origin is tuple:
        items = value if isinstance(value, tuple) else ()
        problems = [p for item in items if (p := problem(item, arguments[0]))]
        if isinstance(value, tuple) and not problems:
            return ""
        return f"tuple of {problems[0]}" if problems else describe(hint)
    if origin is Mapping:
        items = value.values() if isinstance(value, Mapping) else ()
        problems = [p for item in items if (p := problem(item, arguments[1]))]
        if isinstance(value, Mapping) and not problems:
            return ""
        return f"values: {problems[0]}" if problems else describe(hint)
    return "" if _has_type(value, hint) else describe(hint)


def _as_float32(value: float) -> float:
    """Returns what devices compute with; they take the least numbers for 0."""
    if abs(value) > _FLOAT32_MOST:  # also of an int of any size
        return math.inf if value > 0 else -math.inf
    (rounded,) = _FLOAT32.unpack(_FLOAT32.pack(value))
    return rounded if abs(rounded) >= _FLOAT32_LEAST else 0.0


def _is_like(value: Any, hint: Any) -> bool:
    """Returns whether a value is of an annotation's outer type."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    return _has_type(value, typing.get_origin(hint) or hint)


def _is_same(value: Any, allowed: Any) -> bool:
    return type(value) is type(allowed) and value == allowed


def _has_type(value: Any, hint: Any) -> bool:
    if not isinstance(hint, type):
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
