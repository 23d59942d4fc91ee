"""The filters and functions of templates: Jinja's own, and three of PromptSource.

They differ from Jinja's where those would turn a missing value into text; see `nulls`.
"""

import collections
import collections.abc
import functools
import random
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import exceptions, sandbox
from jinja2.utils import Namespace

from elm_jax.data import nulls

# A name in a template's context that no template can spell: it holds a space.
GENERATOR = "random generator"

FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float"),
    *("format", "int", "items", "last", "length", "list", "lower", "map", "max"),
    *("min", "reject", "rejectattr", "reverse", "round", "select", "selectattr"),
    *("sort", "string", "sum", "title", "trim", "truncate", "unique", "upper"),
    "wordcount",
)
_OF_TEXT = frozenset(
    ("capitalize", "lower", "string", "title", "trim", "truncate", "upper", "wordcount")
)
_NUMBERS = frozenset(("float", "int"))


class MissingFieldError(jinja2.UndefinedError):
    """A template named a field that the row does not have."""


class MissingItemError(jinja2.UndefinedError):
    """A template asked for an item that a field lacks, such as a choice."""


class Undefined(jinja2.StrictUndefined):
    """Distinguishes a missing field of a row from a missing item in a field."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = jinja2.utils.missing,
        name: str | None = None,
        exc: type[jinja2.TemplateRuntimeError] = jinja2.UndefinedError,
    ) -> None:
        if hint is None:
            missing = obj is jinja2.utils.missing
            exc = MissingFieldError if missing else MissingItemError
        super().__init__(hint, obj, name, exc)


class Callable:
    """A function or method in a template: it may be called, but not printed.

    Python's text for it contains an address, which differs from process to process.

    Args:
      fn: The function.
    """

    __slots__ = ("fn",)

    def __init__(self, fn: collections.abc.Callable[..., Any]) -> None:
        self.fn = fn

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.fn, "__name__", "").lstrip("_")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Is never called by Jinja, because the environment calls `fn` itself."""
        raise exceptions.SecurityError(f"{self.name!r} may not be called here")

    def __str__(self) -> str:
        raise exceptions.SecurityError(f"it prints the function {self.name!r}")

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return str(self)


@jinja2.pass_context
def printed(context: Any, value: Any) -> Any:
    """Returns a value that a template prints; Jinja's `finalize`.

    Raises:
      NullError: The value is null.
    """
    del context  # There so that Jinja does not run this while it compiles.
    return str(nulls.NULL) if nulls.is_null(value) else value


@jinja2.pass_context
def _joined_texts(context: Any, parts: Sequence[Any]) -> str:
    del context
    return "".join(map(nulls.text_of, parts))


@jinja2.pass_context
def _checked_index(context: Any, index: Any) -> Any:
    """Returns the index of an item; -1 means no label, not the last item."""
    del context
    if isinstance(index, jinja2.Undefined):
        str(index)  # raises, and names the field that is missing
    if isinstance(index, int) and index < 0:
        raise MissingItemError(f"index {index} is below 0")
    return index


class Draws:
    """Random choices that depend on a seed only; the generator is made when needed."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    @functools.cached_property
    def generator(self) -> random.Random:
        """The generator; the first use starts it from the seed."""
        return random.Random(self._seed)  # noqa: S311 - no secret


@jinja2.pass_context
def _choice(context: Any, items: Sequence[Any]) -> Any:
    return context[GENERATOR].generator.choice(items)


def _most_frequent(items: Iterable[Any]) -> list[Any] | None:
    counts = collections.Counter(items).most_common()
    return [item for item, count in counts if count == counts[0][1]] or None


@jinja2.pass_context
def _join(
    context: Any, items: Iterable[Any], d: str = "", attribute: Any = None
) -> str:
    if attribute is not None:
        items = context.environment.call_filter(
            "map", items, kwargs={"attribute": attribute}, context=context
        )
    return str(d).join(map(nulls.text_of, items))


@jinja2.pass_context
def _replace(
    context: Any, text: Any, old: Any, new: Any, count: int | None = None
) -> str:
    del context
    # Not `text_of`: PromptSource takes away the None that `append` gives by its name.
    return str(text).replace(str(old), str(new), -1 if count is None else count)


def _range(*bounds: int) -> range:
    return range(*bounds)


def _zip(*columns: Iterable[Any]) -> list[tuple[Any, ...]]:
    return list(zip(*columns, strict=False))  # as PromptSource does


class _Namespace(Namespace):
    """Jinja's namespace, printed without its values, which may contain each other."""

    def __repr__(self) -> str:
        return "namespace"


FUNCTIONS: Mapping[str, Callable] = types.MappingProxyType(
    {
        "range": Callable(_range),
        "zip": Callable(_zip),
        "namespace": Callable(_Namespace),
    }
)


def filters_by_name() -> dict[str, collections.abc.Callable[..., Any]]:
    """Returns every filter of templates, and two that `sandbox` adds to them.

    Those two have a space in their name, which no template can spell.
    """
    return {name: _guarded(name) for name in FILTERS} | {
        "choice": _choice,
        "random": _choice,
        "most_frequent": _most_frequent,
        "join": _join,
        "replace": _replace,
        "joined texts": _joined_texts,
        "checked index": _checked_index,
    }


# Jinja's own filters, called with the context of a template of `Environment`.
_JINJA = sandbox.SandboxedEnvironment(undefined=Undefined)


def _guarded(name: str) -> collections.abc.Callable[..., Any]:
    """Returns Jinja's filter of this name, which refuses missing values."""

    @jinja2.pass_context
    def filtered(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if name in _OF_TEXT and nulls.is_null(value):
            raise nulls.NullError(f"the filter {name} of a field without a value")
        if name in _NUMBERS and not args and "default" not in kwargs:
            kwargs["default"] = None
        result = _JINJA.call_filter(name, value, args, kwargs, context=context)
        if isinstance(result, Iterator):
            result = list(result)
        if name in _NUMBERS and result is None:
            # Jinja's own answer, 0, would be the label of the first choice.
            raise TypeError(f"{nulls.text_of(value)!r:.80} is no number")
        if name == "map":
            for item in result:
                if isinstance(item, jinja2.Undefined):
                    str(item)  # raises: what may not be seen is not passed on
        return result

    return filtered
