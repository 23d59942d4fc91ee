"""What a template's filters and functions do, and what they cost.

Jinja's own filters and PromptSource's three, each paid from the render's budget; see
`sandbox` for what the budget is for.
"""

import collections
import functools
import itertools
import random
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import exceptions, sandbox
from jinja2.utils import Namespace

from elm_jax.data import nulls

# Names in a template's context that no template can spell: they hold a space.
GENERATOR = "random generator"
BUDGET = "render budget"

# One unit is a character, or a tenth of a syntax node that a loop visits again. The
# longest render of real rows that was seen costs under a hundredth of it; all of it is
# spent in well under a second.
BUDGET_UNITS = 10_000_000
_ITEM_UNITS = 50  # of each item of a list or dictionary
_STEP_UNITS = 50  # of each call and filter

_MAX_INT_ARGUMENT = 10_000

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
# `%10d`, `%*d`, `{:>10}`: how wide a formatted value becomes.
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(\*|\d{4})")


class MissingFieldError(jinja2.UndefinedError):
    """A template named a field that the row does not have."""


class MissingItemError(jinja2.UndefinedError):
    """A template asked for an item that a field does not have, such as a choice."""


class BudgetError(exceptions.SecurityError):
    """A template asked for more work than a render may cost."""


class Undefined(jinja2.StrictUndefined):
    """Tells a missing field of the row from a missing item inside a field."""

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


@jinja2.pass_context
def printed(context: Any, value: Any) -> Any:
    """Returns a value that a template prints; Jinja's `finalize`.

    Raises:
      NullError: There is none.
    """
    del context  # There so that Jinja does not run this while it compiles.
    return str(nulls.NULL) if nulls.is_null(value) else value


_TOO_MUCH = "it takes more than a render may cost"


class Budget:
    """What is left of a render's work."""

    def __init__(self, units: int = BUDGET_UNITS) -> None:
        self.left = units

    def spend(self, units: int) -> None:
        """Takes units from what is left, or raises BudgetError."""
        self.left -= units
        if self.left < 0:
            raise BudgetError(_TOO_MUCH)

    def step(self) -> None:
        """Pays for a call."""
        self.spend(_STEP_UNITS)

    def charge(self, value: Any) -> Any:
        """Pays for a value, deep, and returns it."""
        units = len(value) if type(value) is str else size(value, self.left)
        self.left -= units
        if self.left < 0:
            raise BudgetError(_TOO_MUCH)
        return value


def size(value: Any, most: int = BUDGET_UNITS) -> int:
    """Returns a value's size in units, items of items included.

    Args:
      value: Anything a row or a template may hold; may contain itself.
      most: Counting stops above this.
    """
    if type(value) is str:
        return len(value)
    total, waiting = 0, [value]
    while waiting and total <= most:
        one = waiting.pop()
        if isinstance(one, Mapping):
            items = itertools.chain(one.keys(), one.values())
            total += _ITEM_UNITS * len(one)
        elif isinstance(one, (list, tuple, set, frozenset)):
            items = one
            total += _ITEM_UNITS * len(one)
        else:
            items = (one,)
        for item in items:
            kind = type(item)
            if kind is str:  # what most items are
                total += len(item)
            elif kind is int:
                total += 1 + (item.bit_length() >> 3)
            elif kind is range:
                total += _ITEM_UNITS * len(item)
            elif isinstance(item, (Mapping, list, tuple, set, frozenset)):
                waiting.append(item)
            else:
                total += len(item) if isinstance(item, (str, bytes)) else 1
    return total


@jinja2.pass_context
def _paid(context: Any, value: Any) -> Any:
    return context[BUDGET].charge(value)


@jinja2.pass_context
def _paid_loop(context: Any, items: Iterable[Any], turn_units: int) -> list[Any]:
    """Returns the items of a loop, its turns paid as they begin."""
    budget: Budget = context[BUDGET]
    if isinstance(items, jinja2.Undefined):
        return list(items)  # raises: Undefined is strict
    found = list(items)
    budget.spend(len(found) * turn_units)
    return found


@jinja2.pass_context
def _paid_text(context: Any, parts: Sequence[Any]) -> str:
    budget: Budget = context[BUDGET]
    return budget.charge("".join(map(nulls.text_of, budget.charge(parts))))


@jinja2.pass_context
def _checked_index(context: Any, index: Any) -> Any:
    """Returns the index of an item; a label of -1 is no label, not the last one."""
    del context  # There so that Jinja does not run this while it compiles.
    if isinstance(index, jinja2.Undefined):
        str(index)  # raises, and names the field that is missing
    if isinstance(index, int) and index < 0:
        raise MissingItemError(f"index {index} is below 0")
    return index


class Draws:
    """Random choices as a function of a seed; costs nothing until the first."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    @functools.cached_property
    def generator(self) -> random.Random:
        """The generator, at its start when first used."""
        return random.Random(self._seed)  # noqa: S311 - no secret


@jinja2.pass_context
def _choice(context: Any, items: Sequence[Any]) -> Any:
    context[BUDGET].charge(items)
    return context[GENERATOR].generator.choice(items)


@jinja2.pass_context
def _most_frequent(context: Any, items: Iterable[Any]) -> list[Any] | None:
    context[BUDGET].charge(items)
    counts = collections.Counter(items).most_common()
    return [item for item, count in counts if count == counts[0][1]] or None


@jinja2.pass_context
def _join(
    context: Any, items: Iterable[Any], d: str = "", attribute: Any = None
) -> str:
    budget: Budget = context[BUDGET]
    budget.step()
    if attribute is not None:
        items = context.environment.call_filter(
            "map", items, kwargs={"attribute": attribute}, context=context
        )
    return budget.charge(joined(budget, str(d), items))


def joined(budget: Budget, separator: str, items: Iterable[Any]) -> str:
    """Returns the joined texts of items, paid before they are joined."""
    texts = [nulls.text_of(item) for item in budget.charge(items)]
    budget.spend(len(separator) * len(texts))
    return separator.join(texts)


@jinja2.pass_context
def _replace(
    context: Any, text: Any, old: Any, new: Any, count: int | None = None
) -> str:
    budget: Budget = context[BUDGET]
    budget.step()
    # Not `text_of`: PromptSource takes away the None that `append` gives by its name.
    value = budget.charge(str(budget.charge(text)))
    old, new = str(budget.charge(old)), str(budget.charge(new))
    return budget.charge(
        replaced(budget, value, old, new, -1 if count is None else count)
    )


def replaced(budget: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    """Returns `text.replace(...)`, what is put in paid before."""
    found = text.count(old) if count < 0 else min(text.count(old), count)
    budget.spend(found * len(new))
    return text.replace(old, new, count)


def _range(*bounds: int) -> range:
    return range(*bounds)


def _zip(*columns: Iterable[Any]) -> list[tuple[Any, ...]]:
    return list(zip(*columns, strict=False))  # as PromptSource does


class _Namespace(Namespace):
    """Jinja's namespace, printed without its values: they may hold one another."""

    def __repr__(self) -> str:
        return "namespace"


FUNCTIONS: Mapping[str, Callable[..., Any]] = types.MappingProxyType(
    {"range": _range, "zip": _zip, "namespace": _Namespace}
)


def filters_by_name() -> dict[str, Callable[..., Any]]:
    """Returns every filter of a template, and four that `sandbox` puts into it.

    Those four have a space in their name, which no template can spell.
    """
    return {name: _guarded(name) for name in FILTERS} | {
        "choice": _choice,
        "random": _choice,
        "most_frequent": _most_frequent,
        "join": _join,
        "replace": _replace,
        "paid value": _paid,
        "paid loop": _paid_loop,
        "paid text": _paid_text,
        "checked index": _checked_index,
    }


# Jinja's own filters, called with the context of a template of `Environment`.
_JINJA = sandbox.SandboxedEnvironment(undefined=Undefined)


def _guarded(name: str) -> Callable[..., Any]:
    """Returns Jinja's filter of this name, paid for."""
    repeats = name in ("map", "reject", "rejectattr", "select", "selectattr")

    @jinja2.pass_context
    def filtered(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget: Budget = context[BUDGET]
        budget.step()
        budget.charge(value)
        for one in (*args, *kwargs.values()):
            units = size(one, budget.left)
            budget.spend(units * len(value) if repeats else units)
            if name not in ("default", "d", "int", "truncate") and _is_large(one):
                raise BudgetError(f"{one} as an argument of {name}")
        if name in _OF_TEXT and nulls.is_null(value):
            raise nulls.NullError(f"the filter {name} of a field without a value")
        if name in _NUMBERS and not args and "default" not in kwargs:
            kwargs["default"] = None
        if name == "format":
            check_format(value)
        elif name == "sum" and (len(args) > 1 or "start" in kwargs):
            raise BudgetError("a sum from a start value")  # lists: quadratic work
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
        return budget.charge(result)

    return filtered


def _is_large(argument: Any) -> bool:
    return isinstance(argument, int) and abs(argument) > _MAX_INT_ARGUMENT


def check_format(text: Any) -> None:
    """Raises BudgetError if `%` formatting by this text could make a huge one."""
    if _WIDE_FORMAT.search(str(text)):
        raise BudgetError("a format of a thousand characters or more")
