"""PromptSource templates: rendered in a sandbox (see `sandbox`).

A template's text is untrusted: it can neither reach Python objects behind the row,
nor change the row, nor work without end.

Three deviations from `promptsource.templates.Template.apply`, all on purpose: values
are not cut to 2,048 characters unless asked (`max_value_chars`; lengths are counted in
tokens, by the cache); a field that the row lacks, one without a value (null, NaN) that
is printed, or a label outside its choices, makes a bad row instead of an empty text,
the word `None` or the last choice; and random choices are seeded instead of drawn from
the process's generator. `template_files` reads them from YAML.
"""

import copy
import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
from jinja2 import exceptions

from elm_jax import errors
from elm_jax.data import nulls, sandbox, sandbox_filters, sources

SEPARATOR = "|||"
# Stands for the separator while a template renders, so that a row whose text
# contains `|||` is not split in the wrong place. From Unicode's private use area.
_MARK = "\ue000"

# What Python and Jinja raise when a value is not what a template takes it for.
_ROW_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# Reasons of a RowError, to be counted by; others name an exception's type.
MISSING_FIELD = "missing field"
MISSING_ITEM = "missing item, such as a label outside the choices"
WRONG_TYPE = "wrong type"
TOO_LONG = "too long"
NOT_UTF8 = "not UTF-8"
NULL_VALUE = "null or NaN in its text"

# Of all of a row's fields together. Longer ones are files gone wrong, not examples.
MAX_ROW_CHARS = 1_000_000
# Where PromptSource itself cuts what a template prints; see `max_value_chars`.
PROMPTSOURCE_CHARS = 2048


class Rendered(NamedTuple):
    """One row as text; `choices` is empty when the template has none."""

    inputs: str
    targets: str
    choices: tuple[str, ...]


class RowError(errors.DataError):
    """One row does not fit its template; others may.

    Attributes:
      reason: One of few texts, to be counted by.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Template:
    """One prompt of a dataset, in PromptSource's form.

    Attributes:
      name: Unique among the templates of its dataset and subset.
      id: PromptSource's identifier; part of the seed of random choices.
      jinja: Text of the prompt and the target, with `|||` between them.
      answer_choices: Jinja text of the choices, `|||` between them, or None.
      metrics: PromptSource's names, such as `Accuracy` or `ROUGE`.
      original_task: Whether it asks for what the dataset was made for.
      choices_in_prompt: Whether the prompt shows the choices.
      max_value_chars: Length to which what the prompt and target print is cut, at a
        space, ending in `...`; 0 for none. PromptSource, T0 and the original ELM cut
        at `PROMPTSOURCE_CHARS` (never the answer choices themselves).
    """

    name: str
    id: str
    jinja: str
    answer_choices: str | None = None
    metrics: tuple[str, ...] = ()
    original_task: bool = True
    choices_in_prompt: bool = False
    max_value_chars: int = 0

    @property
    def jinja_sha256(self) -> str:
        """SHA-256 of the prompt's Jinja text alone, in hex."""
        return hashlib.sha256(self.jinja.encode()).hexdigest()

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all that shapes rendered text: texts and id, in hex."""
        parts = (self.id, self.jinja, repr(self.answer_choices))
        parts += (str(self.max_value_chars),) if self.max_value_chars else ()
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def load(self, templates_dir: str) -> "Template":
        """Returns itself, as `TemplateRef.load` returns what it names."""
        del templates_dir
        return self

    def render(self, row: sources.Row, *, seed: int | str) -> Rendered | None:
        """Returns the row as text, or None where the template renders to nothing.

        >>> Template("t", "1", "{{q}}? ||| {{a}}").render({"q": "Up", "a": 1}, seed=0)
        Rendered(inputs='Up?', targets='1', choices=())

        Args:
          row: Fields by name; keys with a hyphen are also found with an underscore.
          seed: Decides random choices, together with the template's id.

        Raises:
          TemplateError: The template does not compile, does something unsafe, or asks
            for more work than a render may cost.
          RowError: This row does not fit, such as a label outside the choices.
        """
        fields = {key.replace("-", "_"): value for key, value in row.items()}
        if "answer_choices" in fields:
            raise self._error("a row with a field named answer_choices", fields)
        if sandbox_filters.size(fields) > MAX_ROW_CHARS:
            raise RowError(TOO_LONG, f"more than {MAX_ROW_CHARS:,} characters")
        if nulls.has_null(fields):
            fields = _with_nulls(fields)
        prompt, mutates = self._compiled_prompt
        if mutates:
            fields = copy.deepcopy(fields)
        fields = {**sandbox_filters.FUNCTIONS, **fields}
        fields[sandbox_filters.GENERATOR] = sandbox_filters.Draws(f"{seed}/{self.id}")
        fields[sandbox_filters.BUDGET] = sandbox_filters.Budget()
        choices = self.render_choices(fields)
        fields["answer_choices"] = list(choices) if choices else nulls.NULL
        parts = self._run(prompt, fields)
        if len(parts) > 2:
            raise RowError("more than one separator", f"{len(parts) - 1} of them")
        if len(parts) < 2 or not all(parts):
            return None
        return Rendered(parts[0], parts[1], choices)

    def render_choices(self, fields: dict[str, Any]) -> tuple[str, ...]:
        """Returns the answer choices of a row, stripped; empty if it has none."""
        compiled = self._compiled_choices
        return tuple(self._run(compiled[0], fields)) if compiled else ()

    def check(self) -> None:
        """Raises a TemplateError if a text does not compile or is not allowed."""
        self._compiled_prompt  # noqa: B018 - cached properties
        self._compiled_choices  # noqa: B018

    @functools.cached_property
    def _compiled_prompt(self) -> tuple[jinja2.Template, bool]:
        if SEPARATOR not in self.jinja:
            raise errors.TemplateError(
                errors.explain(
                    found=f"template {self.name!r} has no {SEPARATOR}",
                    expected=f"prompt {SEPARATOR} target",
                    do="Put the separator between the prompt and its target",
                )
            )
        text = self.jinja
        if self.max_value_chars:
            # PromptSource's own way, which also cuts only the last of `a if b else c`.
            cut = f" | string | truncate({self.max_value_chars}) }}}}"
            text = text.replace("}}", cut)
        return self._compile(text)

    @functools.cached_property
    def _compiled_choices(self) -> tuple[jinja2.Template, bool] | None:
        return (
            None if self.answer_choices is None else self._compile(self.answer_choices)
        )

    def _compile(self, text: str) -> tuple[jinja2.Template, bool]:
        try:
            return _ENVIRONMENT.compiled(text.replace(SEPARATOR, _MARK))
        except jinja2.TemplateSyntaxError as error:
            raise errors.TemplateError(
                errors.explain(
                    found=f"template {self.name!r}, line {error.lineno}: {error}",
                    expected="a Jinja template that says what PromptSource's say",
                    do="Correct its text in templates.yaml",
                )
            ) from error

    def _run(self, compiled: jinja2.Template, fields: dict[str, Any]) -> list[str]:
        budget: sandbox_filters.Budget = fields[sandbox_filters.BUDGET]
        pieces: list[str] = []
        length = 0
        try:
            # What `render` does, but stopped before a text becomes too long.
            for piece in compiled.root_render_func(
                compiled.new_context(fields, shared=True)
            ):
                length += len(piece)
                if length > budget.left:
                    budget.spend(length)  # raises
                pieces.append(piece)
        except sandbox_filters.MissingFieldError as error:
            raise RowError(MISSING_FIELD, self._fields(f"{error}", fields)) from error
        except sandbox_filters.MissingItemError as error:
            raise RowError(MISSING_ITEM, str(error)) from error
        except nulls.NullError as error:
            raise RowError(NULL_VALUE, str(error)) from error
        except (exceptions.SecurityError, MemoryError) as error:
            raise self._error(f"does something unsafe: {error}", fields) from error
        except (TypeError, AttributeError) as error:
            raise RowError(WRONG_TYPE, str(error)) from error
        except _ROW_ERRORS as error:
            raise RowError(f"{type(error).__name__} in template", str(error)) from error
        return [part.strip() for part in "".join(pieces).split(_MARK)]

    def _fields(self, found: str, fields: Mapping[str, Any]) -> str:
        present = sorted(
            name
            for name, value in fields.items()
            if " " not in name
            and name != "answer_choices"
            and sandbox_filters.FUNCTIONS.get(name) is not value
        )
        return f"{found}; the row has {', '.join(present) or 'no field'}"

    def _error(self, found: str, fields: Mapping[str, Any]) -> errors.TemplateError:
        return errors.TemplateError(
            errors.explain(
                found=self._fields(f"template {self.name!r} {found}", fields),
                expected="a template that makes one prompt of one row's fields",
                do="Use another template, or correct it",
            )
        )


_ENVIRONMENT = sandbox.Environment()


def _with_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    try:
        return nulls.with_nulls(fields)
    except RecursionError as error:
        raise RowError(WRONG_TYPE, "its fields are nested too deep") from error


def task_name(dataset: str, subset: str | None, prompt: str) -> str:
    """Returns T0's name of a prompted task.

    >>> task_name("cos_e", "v1.11", "i_think")
    'cos_e_v1.11_i_think'
    >>> task_name("rotten_tomatoes", None, "Sentiment with choices ")
    'rotten_tomatoes_Sentiment_with_choices_'

    Reference: bigscience-workshop/t-zero, `t0/seqio_tasks/utils.py`.
    """
    return re.sub(r"[^\w\d.]+", "_", f"{dataset_name(dataset, subset)}_{prompt}")


def dataset_name(dataset: str, subset: str | None) -> str:
    """Returns the part of `task_name` that all prompts of a dataset share."""
    return re.sub(r"[^\w\d.]+", "_", f"{dataset}_{subset}" if subset else dataset)
