"""PromptSource templates: read from YAML, rendered in Jinja's sandbox.

A template's text is untrusted: it can neither reach Python objects behind the row
nor change the row. (The sandbox does not bound a template's running time.)

Two deviations from `promptsource.templates.Template.apply`, both on purpose: fields
are never cut to 2,048 characters (lengths are counted in tokens, by the cache), and
a field that the row lacks is an error instead of an empty text. Random choices are
seeded instead of drawn from the process's generator.
"""

import collections
import dataclasses
import functools
import hashlib
import pathlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import yaml
from jinja2 import exceptions, sandbox

from elm_jax import errors
from elm_jax.data import sources

SEPARATOR = "|||"
# Stands for the separator while a template renders, so that a row whose text
# contains `|||` is not split in the wrong place. From Unicode's private use area.
_MARK = "\ue000"
# Context name of the random generator; no template can spell a name with a space.
_GENERATOR = "random generator"

TEMPLATES_FILE = "templates.yaml"


# What Python and Jinja raise when a value is not what a template takes it for.
_ROW_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


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
    """

    name: str
    id: str
    jinja: str
    answer_choices: str | None = None
    metrics: tuple[str, ...] = ()
    original_task: bool = True
    choices_in_prompt: bool = False

    @property
    def jinja_sha256(self) -> str:
        """SHA-256 of the prompt's Jinja text alone, in hex."""
        return hashlib.sha256(self.jinja.encode()).hexdigest()

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all that shapes rendered text: texts and id, in hex."""
        parts = (self.id, self.jinja, repr(self.answer_choices))
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
          TemplateError: The template does not compile, does something unsafe, or
            names a field that the row lacks.
          RowError: This row does not fit, such as a label outside the choices.
        """
        fields = {key.replace("-", "_"): value for key, value in row.items()}
        if "answer_choices" in fields:
            raise self._error("a row with a field named answer_choices", fields)
        fields[_GENERATOR] = random.Random(f"{seed}/{self.id}")
        choices = self.render_choices(fields)
        fields["answer_choices"] = list(choices) if choices else None
        parts = self._run(self._compiled_prompt, fields)
        if len(parts) > 2:
            raise RowError("more than one separator", f"{len(parts) - 1} of them")
        if len(parts) < 2 or not all(parts):
            return None
        return Rendered(parts[0], parts[1], choices)

    def render_choices(self, fields: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the answer choices of a row, stripped; empty if it has none."""
        compiled = self._compiled_choices
        return tuple(self._run(compiled, fields)) if compiled else ()

    @functools.cached_property
    def _compiled_prompt(self) -> jinja2.Template:
        if SEPARATOR not in self.jinja:
            raise errors.TemplateError(
                errors.explain(
                    found=f"template {self.name!r} has no {SEPARATOR}",
                    expected=f"prompt {SEPARATOR} target",
                    do="Put the separator between the prompt and its target",
                )
            )
        return self._compile(self.jinja)

    @functools.cached_property
    def _compiled_choices(self) -> jinja2.Template | None:
        return (
            None if self.answer_choices is None else self._compile(self.answer_choices)
        )

    def _compile(self, text: str) -> jinja2.Template:
        try:
            return _ENVIRONMENT.from_string(text.replace(SEPARATOR, _MARK))
        except jinja2.TemplateSyntaxError as error:
            raise errors.TemplateError(
                errors.explain(
                    found=f"template {self.name!r}, line {error.lineno}: {error}",
                    expected="a Jinja template",
                    do="Correct its text in templates.yaml",
                )
            ) from error

    def _run(self, compiled: jinja2.Template, fields: Mapping[str, Any]) -> list[str]:
        try:
            text = compiled.render(fields)
        except _MissingFieldError as error:
            raise self._error(f"names a field: {error}", fields) from error
        except exceptions.SecurityError as error:
            raise self._error(f"does something unsafe: {error}", fields) from error
        except _ROW_ERRORS as error:
            raise RowError(f"{type(error).__name__} in template", str(error)) from error
        return [part.strip() for part in text.split(_MARK)]

    def _error(self, found: str, fields: Mapping[str, Any]) -> errors.TemplateError:
        present = sorted(fields.keys() - {_GENERATOR, "answer_choices"})
        return errors.TemplateError(
            errors.explain(
                found=f"template {self.name!r} {found}",
                expected=f"only fields that the rows have: {', '.join(present)}",
                do="Use another template, or a source that gives the field",
            )
        )


@dataclasses.dataclass(frozen=True)
class TemplateRef:
    """Names a template, to be read when it is needed.

    Attributes:
      dataset: PromptSource's dataset folder, such as `cos_e`.
      name: The template's name in that folder's `templates.yaml`.
      subset: PromptSource's subset folder, such as `v1.11`, or None.
      folder: Where the dataset's folder lies; None means the folder of unpacked
        PromptSource templates that the user names.
    """

    dataset: str
    name: str
    subset: str | None = None
    folder: str | None = None

    def load(self, templates_dir: str) -> Template:
        """Returns the template.

        Raises:
          TemplateError: The folder, the dataset or the template is not there.
        """
        folder = self.folder if self.folder is not None else templates_dir
        collection = load_templates(folder, self.dataset, self.subset)
        if self.name not in collection:
            raise errors.TemplateError(
                errors.explain(
                    found=f"no template {self.name!r} for {self.dataset}",
                    expected=f"a name in {self.dataset}/{TEMPLATES_FILE}",
                    do=errors.did_you_mean(self.name, collection),
                )
            )
        return collection[self.name]


def load_templates(
    folder: str, dataset: str, subset: str | None = None
) -> Mapping[str, Template]:
    """Returns the templates of a dataset by name.

    Args:
      folder: Folder in PromptSource's layout: `dataset[/subset]/templates.yaml`.
      dataset: Dataset folder below it.
      subset: Subset folder below that, or None.

    Raises:
      TemplateError: The folder or file is missing, or the file is malformed.
    """
    root = pathlib.Path(folder)
    if not folder or not root.is_dir():
        raise errors.TemplateError(
            errors.explain(
                found=f"no template folder {folder!r}",
                expected="a folder of unpacked PromptSource templates",
                do="Run `elm_tasks --gin_file=gin/original/templates.gin "
                "--gin.MODEL_DIR=DIR`, or name a folder (TEMPLATES_DIR)",
            )
        )
    path = root / dataset / (subset or "") / TEMPLATES_FILE
    if not path.is_file():
        known = (p.parent.relative_to(root) for p in root.rglob(TEMPLATES_FILE))
        raise errors.TemplateError(
            errors.explain(
                found=f"no file {path}",
                expected="one templates.yaml per dataset and subset",
                do=errors.did_you_mean(
                    f"{dataset}/{subset or ''}".strip("/"), map(str, known)
                ),
            )
        )
    return _read_templates(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _read_templates(path: pathlib.Path, modified_ns: int) -> Mapping[str, Template]:
    del modified_ns  # Part of the cache's key: a changed file is read anew.
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506
        found = [_template(entry) for entry in content["templates"].values()]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise errors.TemplateError(
            errors.explain(
                found=f"{path} is not a PromptSource file: {error}",
                expected="a mapping with `templates`, each a `!Template`",
                do="Fetch the templates again, or correct the file",
            )
        ) from error
    return {template.name: template for template in found}


def _template(entry: Mapping[str, Any]) -> Template:
    metadata = entry["metadata"]
    return Template(
        name=entry["name"],
        id=entry["id"],
        jinja=entry["jinja"],
        answer_choices=entry["answer_choices"],
        metrics=tuple(metadata["metrics"] or ()),
        original_task=bool(metadata["original_task"]),
        choices_in_prompt=bool(metadata["choices_in_prompt"]),
    )


# libyaml's parser where PyYAML has it: ten times as fast.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """YAML's safe loader plus PromptSource's two tags, read as mappings."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, _mapping)


class _MissingFieldError(jinja2.UndefinedError):
    """A template named a field that the row does not have."""


class _Undefined(jinja2.StrictUndefined):
    """Tells a missing field of the row from a missing item inside a field."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = jinja2.utils.missing,
        name: str | None = None,
        exc: type[jinja2.TemplateRuntimeError] = jinja2.UndefinedError,
    ) -> None:
        if hint is None and obj is jinja2.utils.missing:
            exc = _MissingFieldError
        super().__init__(hint, obj, name, exc)


@jinja2.pass_context
def _choice(context: Any, items: Sequence[Any]) -> Any:
    return context[_GENERATOR].choice(items)


def _most_frequent(items: Iterable[Any]) -> list[Any] | None:
    counts = collections.Counter(items).most_common()
    return [item for item, count in counts if count == counts[0][1]] or None


_ENVIRONMENT = sandbox.ImmutableSandboxedEnvironment(undefined=_Undefined)
_ENVIRONMENT.globals["zip"] = zip
_ENVIRONMENT.filters["choice"] = _choice
_ENVIRONMENT.filters["most_frequent"] = _most_frequent


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
