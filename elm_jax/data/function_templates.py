"""Templates that are Python functions, for prompts that are hard to write in Jinja."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.data import nulls, sources, templates

PromptFn = Callable[[sources.Row], Any]
"""`row -> (inputs, targets)`, `(inputs, targets, choices)`, or None to drop the row."""


class _Named(nulls.Null):
    """A null whose text is a character of Unicode's private use area."""

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
      fn: A function of a module, so that other processes can import it. Equal rows must
        give equal texts. It is the user's own code and runs without a sandbox.
      has_choices: Whether it gives answer choices, one of which is the target.
    """

    name: str
    fn: PromptFn
    has_choices: bool = False

    @property
    def answer_choices(self) -> str | None:
        """The function's name where it gives choices, or None."""
        name = f"{self.fn.__module__}.{self.fn.__qualname__}"
        return name if self.has_choices else None

    @property
    def sha256(self) -> str:
        """SHA-256 of the function's name and text, as `sources.code_of`, in hex."""
        code = f"{sources.code_of(self.fn)} {self.has_choices}"
        return hashlib.sha256(code.encode()).hexdigest()

    def load(self, templates_dir: str) -> "FunctionTemplate":
        """Returns the template itself, as `TemplateRef.load` does."""
        del templates_dir
        return self

    def render(self, row: sources.Row, *, seed: int | str) -> templates.Rendered | None:
        """Returns the row as text, or None where the function gives None or nothing.

        Raises:
          TemplateError: The function returns something other than texts.
          RowError: It fails for this row, for example because a field is missing; it
            prints a null; or the row is too long.
        """
        del seed
        templates.check_length(row)
        returned = self._called(row)
        if returned is None:
            return None
        rendered = self._rendered(returned)
        if rendered is not None and self._prints_null(row, rendered):
            reason = "the text has the None or nan of a field without a value"
            raise templates.RowError(templates.NULL_VALUE, reason)
        return rendered

    def _prints_null(self, row: sources.Row, rendered: templates.Rendered) -> bool:
        """Returns whether the function has printed a null of the row as text.

        When a function formats None, nobody can notice. So it is called again for a row
        in which an object with another text replaces the null. If only that text has
        changed, where `None` or `nan` was, the null was printed. Nulls are replaced one
        at a time, because the function may test the others.
        """
        texts = (rendered.inputs, rendered.targets, *rendered.choices)
        names = [name for name in ("None", "nan") if any(name in t for t in texts)]
        if not names or not nulls.has_null(row):
            return False
        for renamed in _each_named(row):
            try:
                returned = self._called(renamed)
                second_text = None if returned is None else self._rendered(returned)
            except (templates.RowError, errors.TemplateError):
                continue
            if second_text is None or second_text == rendered:
                continue
            renamed_texts = (
                second_text.inputs,
                second_text.targets,
                *second_text.choices,
            )
            for name in names:
                if texts == tuple(text.replace(_NAME, name) for text in renamed_texts):
                    return True
        return False

    def _rendered(self, returned: Any) -> templates.Rendered | None:
        inputs, targets, choices = self._checked(returned)
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

    def _checked(self, returned: Any) -> tuple[str, str, Sequence[str]]:
        parts = (
            (*returned, ())
            if isinstance(returned, tuple) and len(returned) == 2
            else returned
        )
        fits = isinstance(parts, tuple) and len(parts) == 3
        if fits and not isinstance(parts[2], str):
            texts = (parts[0], parts[1], *parts[2])
            if all(isinstance(text, str) for text in texts):
                return parts
        raise errors.TemplateError(
            found=f"function template {self.name!r} gave {returned!r:.200}",
            expected="(inputs, targets) or (inputs, targets, choices), or None",
            do="Correct the function",
        )


def _each_named(row: sources.Row) -> Iterator[sources.Row]:
    try:
        yield from nulls.each_replaced(row, _NAMED)
    except RecursionError as error:
        problem = "its fields are nested too deep"
        raise templates.RowError(templates.WRONG_TYPE, problem) from error
