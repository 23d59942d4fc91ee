"""PromptSource templates: rendered in a sandbox (see `sandbox`).

A template's text is untrusted: it can neither reach Python objects behind the row nor
change the row. `limited_rendering` keeps one that may be a stranger's from working
without end.

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
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jinja2
from jinja2 import exceptions

from elm_jax import errors
from elm_jax.data import nulls, records, sandbox, sandbox_filters

SEPARATOR = "|||"
# One of these stands for the separator while a template renders, so that a row whose
# text contains `|||` is not split in the wrong place: the first that neither the
# template nor the row has. Unicode's private use area.
_MARKS = tuple(map(chr, range(0xE000, 0xF900)))

# Reasons of a RowError, to be counted by; others name an exception's type.
MISSING_FIELD = "missing field"
MISSING_ITEM = "missing item, such as a label outside the choices"
WRONG_TYPE = "wrong type"
TOO_LONG = "too long"
NOT_UTF8 = "not UTF-8"
NULL_VALUE = "null or NaN in its text"
NO_MARK = "no character left to part it by"

# Of all of a row's fields together, and of all of its texts. Longer ones are files gone
# wrong, not examples.
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
      detail: What is wrong with this row.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


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
      is_known: Whether it comes from a file that the project knows by its hash
        (`known_files`); others are rendered in a process with limits.
    """

    name: str
    id: str
    jinja: str
    answer_choices: str | None = None
    metrics: tuple[str, ...] = ()
    original_task: bool = True
    choices_in_prompt: bool = False
    max_value_chars: int = 0
    is_known: bool = False

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
        """Returns the template itself, as `TemplateRef.load` does."""
        del templates_dir
        return self

    def render(self, row: records.Row, *, seed: int | str) -> Rendered | None:
        """Returns the row as text, or None where the template renders to nothing.

        >>> Template("t", "1", "{{q}}? ||| {{a}}").render({"q": "Up", "a": 1}, seed=0)
        Rendered(inputs='Up?', targets='1', choices=())

        Args:
          row: Fields by name; keys with a hyphen are also found with an underscore.
          seed: Decides random choices, together with the template's id.

        Raises:
          TemplateError: The template does not compile, or does something unsafe.
          RowError: This row does not fit, such as a label outside the choices.
        """
        look = _look(row)
        fields = {key.replace("-", "_"): value for key, value in row.items()}
        if "answer_choices" in fields:
            raise self._error("a row with a field named answer_choices", fields)
        if look.has_null:
            fields = _copied(fields, nulls.with_nulls)
        mark = self._mark if self._mark not in look.marks else self._other_mark(look)
        (prompt, mutates), compiled_choices = self._compiled(mark)
        if mutates:
            fields = _copied(fields, copy.deepcopy)
        fields = {**sandbox_filters.FUNCTIONS, **fields}
        fields[sandbox_filters.GENERATOR] = sandbox_filters.Draws(f"{seed}/{self.id}")
        choices: tuple[str, ...] = ()
        if compiled_choices:
            choices = tuple(self._run(compiled_choices[0], fields, mark))
        fields["answer_choices"] = list(choices) if choices else nulls.NULL
        parts = self._run(prompt, fields, mark)
        if len(parts) > 2:
            raise RowError("more than one separator", f"{len(parts) - 1} of them")
        if len(parts) < 2 or not all(parts):
            return None
        if sum(map(len, (*parts, *choices))) > MAX_ROW_CHARS:
            raise RowError(TOO_LONG, f"a text of more than {MAX_ROW_CHARS:,}")
        return Rendered(parts[0], parts[1], choices)

    def check(self) -> None:
        """Raises a TemplateError if a text does not compile or is not allowed."""
        self._compiled(self._mark)

    @functools.cached_property
    def _mark(self) -> str:
        """The text in place of the separator, unless a row has it."""
        return self._other_mark(_Look())

    def _other_mark(self, look: "_Look") -> str:
        """Returns what stands for the separator in one row."""
        used_marks = {*look.marks, *self.jinja, *(self.answer_choices or "")}
        for mark in _MARKS:
            if mark not in used_marks:
                return mark
        raise RowError(NO_MARK, "it has every character of the private use area")

    @functools.cached_property
    def _by_mark(self) -> dict[str, Any]:
        return {}

    def _compiled(self, mark: str) -> tuple[Any, Any]:
        """Returns the prompt and the choices, compiled with a mark between parts."""
        if mark not in self._by_mark:
            if len(self._by_mark) >= 8:  # rows of all kinds of icons
                self._by_mark.clear()
            choices = self.answer_choices
            self._by_mark[mark] = (
                self._compile(self._cutting_jinja(), mark),
                None if choices is None else self._compile(choices, mark),
            )
        return self._by_mark[mark]

    def _cutting_jinja(self) -> str:
        if SEPARATOR not in self.jinja:
            raise errors.TemplateError(
                found=f"template {self.name!r} has no {SEPARATOR}",
                expected=f"prompt {SEPARATOR} target",
                do="Put the separator between the prompt and its target",
            )
        if not self.max_value_chars:
            return self.jinja
        # PromptSource's own way, which also cuts only the last of `a if b else c`.
        cut = f" | string | truncate({self.max_value_chars}) }}}}"
        return self.jinja.replace("}}", cut)

    def _compile(self, text: str, mark: str) -> tuple[jinja2.Template, bool]:
        try:
            return _ENVIRONMENT.compiled(text.replace(SEPARATOR, mark))
        except jinja2.TemplateSyntaxError as error:
            raise errors.TemplateError(
                found=f"template {self.name!r}, line {error.lineno}: {error}",
                expected="a Jinja template that says what PromptSource's say",
                do="Correct its text in templates.yaml",
            ) from error

    def _run(
        self, compiled: jinja2.Template, fields: dict[str, Any], mark: str
    ) -> list[str]:
        try:
            # What `render` does, without its way of telling errors.
            context = compiled.new_context(fields, shared=True)
            text = "".join(compiled.root_render_func(context))
        except sandbox_filters.MissingFieldError as error:
            raise RowError(MISSING_FIELD, self._fields(f"{error}", fields)) from error
        except sandbox_filters.MissingItemError as error:
            raise RowError(MISSING_ITEM, str(error)) from error
        except nulls.NullError as error:
            raise RowError(NULL_VALUE, str(error)) from error
        except exceptions.SecurityError as error:
            raise self._error(f"does something unsafe: {error}", fields) from error
        except (TypeError, AttributeError) as error:
            raise RowError(WRONG_TYPE, str(error)) from error
        except MemoryError:
            raise  # a question of limits, not of the row
        except Exception as error:  # a template may make any of Python's raise
            raise RowError(f"{type(error).__name__} in template", str(error)) from error
        return [part.strip() for part in text.split(mark)]

    def _fields(self, problem: str, fields: Mapping[str, Any]) -> str:
        present = sorted(
            name
            for name, value in fields.items()
            if " " not in name
            and name != "answer_choices"
            and sandbox_filters.FUNCTIONS.get(name) is not value
        )
        return f"{problem}; the row has {', '.join(present) or 'no field'}"

    def _error(self, problem: str, fields: Mapping[str, Any]) -> errors.TemplateError:
        return errors.TemplateError(
            found=self._fields(f"template {self.name!r} {problem}", fields),
            expected="a template that makes one prompt of one row's fields",
            do="Use another template, or correct it",
        )


_ENVIRONMENT = sandbox.Environment()


@dataclasses.dataclass
class _Look:
    """The findings of one walk over a row.

    Attributes:
      num_chars: Characters of its texts, and one for each value besides.
      has_null: Whether a value is null or NaN.
      marks: Characters of its texts that may not stand for the separator.
    """

    num_chars: int = 0
    has_null: bool = False
    marks: set[str] = dataclasses.field(default_factory=set)


def _look(row: records.Row) -> _Look:
    """Returns what is in a row, items of items included.

    Raises:
      RowError: It is too long, or a field's name is no text.
    """
    look = _Look()
    waiting: list[Any] = [row]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            look.num_chars += len(item)
            if not item.isascii():
                look.marks.update(_PRIVATE.findall(item))
        elif isinstance(item, Mapping):
            waiting += item.keys()
            waiting += item.values()
            look.num_chars += 1
        elif isinstance(item, (list, tuple)):
            waiting += item
            look.num_chars += 1
        else:
            look.num_chars += len(item) if isinstance(item, bytes) else 1
            look.has_null = look.has_null or nulls.is_null(item)
        if look.num_chars + len(waiting) > MAX_ROW_CHARS:
            raise RowError(TOO_LONG, f"more than {MAX_ROW_CHARS:,} characters")
    for key in row:
        if not isinstance(key, str):
            raise RowError(WRONG_TYPE, f"a field whose name is {key!r:.80}, no text")
    return look


def check_length(row: records.Row) -> None:
    """Raises a RowError if a row is longer than any example."""
    _look(row)


_PRIVATE = re.compile("[\ue000-\uf8ff]")


def _copied(
    fields: dict[str, Any], copy_fn: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    try:
        return copy_fn(fields)
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
