"""Templates that are Python functions, for what Jinja says badly."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.data import nulls, sources, templates

PromptFn = Callable[[sources.Row], Any]
"""`row -> (inputs, targets)`, `(inputs, targets, choices)`, or None to drop the row."""


class _Named(nulls.Null):
    """A null with a text of its own, from Unicode's private use area."""

    __slots__ = ()

    def __str__(self) -> str:
        return _NAME

    __repr__ = __str__


_NAME = "\ue001"
_NAMED = _Named()


@dataclasses.dataclass(frozen=True)
class FunctionTemplate:
    """One prompt of a dataset, as a function of a row.

    Attributes:
      name: Unique among the templates of its dataset and subset.
      fn: A function of a module, so that other processes find it. Equal rows give equal
        texts. It is the user's own code: nothing holds it in a sandbox.
      has_choices: Whether it gives answer choices, one of which is the target.
    """

    name: str
    fn: PromptFn
    has_choices: bool = False

    @property
    def answer_choices(self) -> str | None:
        """The function's name where it gives choices, or None."""
        where = f"{self.fn.__module__}.{self.fn.__qualname__}"
        return where if self.has_choices else None

    @property
    def sha256(self) -> str:
        """SHA-256 of the function's name and text, as `sources.code_of`, in hex."""
        code = f"{sources.code_of(self.fn)} {self.has_choices}"
        return hashlib.sha256(code.encode()).hexdigest()

    def load(self, templates_dir: str) -> "FunctionTemplate":
        """Returns itself, as `TemplateRef.load` returns what it names."""
        del templates_dir
        return self

    def render(self, row: sources.Row, *, seed: int | str) -> templates.Rendered | None:
        """Returns the row as text, or None where the function gives None or nothing.

        Raises:
          TemplateError: The function gives something else than texts.
          RowError: It fails for this row, such as for a field that is not there; it
            prints a null; or the row is too long.
        """
        del seed
        templates.check_length(row)
        found = self._called(row)
        if found is None:
            return None
        rendered = self._rendered(found)
        if rendered is not None and self._prints_null(row, rendered):
            told = "the function's text has the None or nan of a field without a value"
            raise templates.RowError(templates.NULL_VALUE, told)
        return rendered

    def _prints_null(self, row: sources.Row, rendered: templates.Rendered) -> bool:
        """Returns whether a text changes with what stands for a null, and only so.

        A function formats a None without a chance to notice. So it is called again for
        a row with another name for nothing: if that name stands where `None` or `nan`
        stood, and all else is equal, it was printed. One null at a time, as the others
        may be tested.
        """
        texts = (rendered.inputs, rendered.targets, *rendered.choices)
        names = [name for name in ("None", "nan") if any(name in t for t in texts)]
        if not names or not nulls.has_null(row):
            return False
        for renamed in _each_named(row):
            try:
                other = self._called(renamed)
                again = None if other is None else self._rendered(other)
            except (templates.RowError, errors.TemplateError):
                continue
            if again is None or again == rendered:
                continue
            others = (again.inputs, again.targets, *again.choices)
            for name in names:
                if texts == tuple(text.replace(_NAME, name) for text in others):
                    return True
        return False

    def _rendered(self, found: Any) -> templates.Rendered | None:
        inputs, targets, choices = self._checked(found)
        if not inputs.strip() or not targets.strip():
            return None
        stripped = tuple(choice.strip() for choice in choices)
        return templates.Rendered(inputs.strip(), targets.strip(), stripped)

    def _called(self, row: sources.Row) -> Any:
        try:
            return self.fn(row)
        except KeyError as error:
            raise templates.RowError(templates.MISSING_FIELD, str(error)) from error
        except IndexError as error:
            raise templates.RowError(templates.MISSING_ITEM, str(error)) from error
        except (TypeError, AttributeError) as error:
            raise templates.RowError(templates.WRONG_TYPE, str(error)) from error
        except (ValueError, ArithmeticError) as error:
            reason = f"{type(error).__name__} in template"
            raise templates.RowError(reason, str(error)) from error

    def _checked(self, found: Any) -> tuple[str, str, Sequence[str]]:
        parts = (*found, ()) if isinstance(found, tuple) and len(found) == 2 else found
        fits = isinstance(parts, tuple) and len(parts) == 3
        if fits and not isinstance(parts[2], str):
            texts = (parts[0], parts[1], *parts[2])
            if all(isinstance(text, str) for text in texts):
                return parts
        raise errors.TemplateError(
            found=f"function template {self.name!r} gave {found!r:.200}",
            expected="(inputs, targets) or (inputs, targets, choices), or None",
            do="Correct the function",
        )


def _each_named(row: sources.Row) -> Iterator[sources.Row]:
    try:
        yield from nulls.each_replaced(row, _NAMED)
    except RecursionError as error:
        told = "its fields are nested too deep"
        raise templates.RowError(templates.WRONG_TYPE, told) from error
