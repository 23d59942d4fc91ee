"""Turns the rows of a task's split into texts, and counts dropped rows by reason."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from elm_jax import errors
from elm_jax.data import (
    limited_rendering,
    nulls,
    serving,
    sources,
    tasks,
    templates,
)
from elm_jax.limits import limited

ProgressFn = Callable[[int], None]
"""Called with the number of rows done so far."""

EMPTY = "renders to nothing"
NO_CORRECT_CHOICE = "no correct choice"
TOO_FEW_CHOICES = "fewer than two choices"


@dataclasses.dataclass
class RenderedSplit:
    """The texts of a split, one entry per example that was kept.

    Attributes:
      inputs: Prompts; empty for plain text.
      targets: Targets, or the documents of plain text.
      choices: Answer choices, empty where the template has none.
      labels: Index of the correct choice, -1 where there are none.
      example_ids: Place of the row in its source.
      num_rows: Rows the source had, dropped ones included.
      dropped: How many rows were dropped, by reason.
      first_bad: For each reason, the place of the first bad row, from 0, and what is
        wrong with it, in the order of places.
    """

    inputs: list[str] = dataclasses.field(default_factory=list)
    targets: list[str] = dataclasses.field(default_factory=list)
    choices: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)
    example_ids: list[int] = dataclasses.field(default_factory=list)
    num_rows: int = 0
    dropped: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    first_bad: dict[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.targets)

    def keep(
        self,
        example_id: int,
        text: templates.Rendered,
        *,
        label: int = -1,
    ) -> None:
        """Adds one example."""
        self.example_ids.append(example_id)
        self.inputs.append(text.inputs)
        self.targets.append(text.targets)
        self.choices.append(text.choices)
        self.labels.append(label)

    def drop_bad(self, example_id: int, error: templates.RowError) -> None:
        """Counts a row that is left out."""
        reason = f"bad: {error.reason}"
        self.dropped[reason] += 1
        self.first_bad.setdefault(reason, f"row {example_id}: {error}")


def source_split(name: str, splits: Mapping[str, str], split: str) -> str:
    """Returns the source's name of a task's split, or raises a DataError."""
    if split in splits:
        return splits[split]
    raise errors.DataError(
        found=f"task {name!r} has no split {split!r}",
        expected=f"one of {', '.join(splits)}",
        do="Choose another split, or register the task with one more",
    )


def served(
    task: tasks.Task | tasks.TextTask, split: str, data_options: tasks.DataOptions
) -> serving.Served:
    """Returns the first source, in the user's order, that has a task's split."""
    return serving.serve(
        task.source,
        _part(task, split, data_options),
        data_dir=data_options.data_dir,
        order=data_options.sources,
    )


def missing(
    task: tasks.Task | tasks.TextTask, split: str, data_options: tasks.DataOptions
) -> str:
    """Returns "" if some source may have a task's split, else what the first lacks."""
    return serving.missing(
        task.source,
        _part(task, split, data_options),
        data_dir=data_options.data_dir,
        order=data_options.sources,
    )


def _part(
    task: tasks.Task | tasks.TextTask, split: str, data_options: tasks.DataOptions
) -> str:
    """Returns the part of the source's splits that a task's split stands for."""
    protocol = f"{split}@{data_options.protocol}"
    name = protocol if data_options.protocol and protocol in task.splits else split
    return source_split(task.name, task.splits, name)


def render_split(
    task: tasks.Task | tasks.TextTask,
    split: str,
    data_options: tasks.DataOptions,
    *,
    progress: ProgressFn | None = None,
    max_value_chars: int = 0,
) -> RenderedSplit:
    """Returns the texts of a task's split in the source's order.

    Rows that render to nothing are dropped and counted, as T0 does. So are rows that do
    not fit the template; many of them are an error.

    Args:
      task: A prompted task or a plain text task.
      split: One of the task's split names.
      data_options: Where data and templates are.
      progress: Called with the number of rows done, now and then.
      max_value_chars: See `templates.Template`.

    Raises:
      DataError: The split is unknown or empty, or more than the task's
        `max_bad_share` of its rows do not fit.
      TemplateError: The template is missing, does something that is not allowed, or
        names a field that no row has.
    """
    result = render_rows(
        served(task, split, data_options).rows(),
        split=split,
        template=load_template(task, split, data_options, max_value_chars),
        field=task.field if isinstance(task, tasks.TextTask) else "",
        limits=data_options.limits,
        progress=progress,
    )
    check_rows(
        task,
        split,
        num_rows=result.num_rows,
        num_examples=len(result),
        dropped=result.dropped,
        first_bad=result.first_bad,
    )
    return result


def load_template(
    task: tasks.Task | tasks.TextTask,
    split: str,
    data_options: tasks.DataOptions,
    max_value_chars: int = 0,
) -> Any:
    """Returns a task's template, cutting values if asked.

    None for plain text, and if the source's rows are finished prompts.
    """
    if (
        isinstance(task, tasks.TextTask)
        or served(task, split, data_options).is_prompted
    ):
        return None
    template = task.template.load(data_options.templates_dir)
    if max_value_chars and isinstance(template, templates.Template):
        template = dataclasses.replace(template, max_value_chars=max_value_chars)
    return template


def render_rows(
    rows: Iterable[sources.Record],
    *,
    split: str,
    template: Any,
    field: str = "",
    start: int = 0,
    limits: limited.Limits | None = None,
    progress: ProgressFn | None = None,
) -> RenderedSplit:
    """Returns the texts of some rows, and counts of those that were dropped.

    Args:
      rows: Rows in the source's order.
      split: The task's split; part of the seed of random choices.
      template: What `load_template` gives.
      field: The field of plain text.
      start: Place of the first row in its source.
      limits: Of time and memory for each row, if the template may be a stranger's;
        None for those of this process.
      progress: Called with the number of rows done, now and then.

    Raises:
      TemplateError: The template does not compile, does something that is not
        allowed, or crosses a limit; the message names the row.
    """
    result = RenderedSplit()
    numbered = enumerate(rows, start)
    limits = limits or limited.current()
    for example_id, row, rendered in _each_rendered(numbered, template, split, limits):
        result.num_rows += 1
        if progress and result.num_rows % 256 == 0:
            progress(result.num_rows)
        if isinstance(row, sources.Skipped):
            result.dropped[f"skipped: {row.reason}"] += 1
            continue
        try:
            if isinstance(row, sources.Bad):
                raise templates.RowError(row.reason, row.detail)
            if isinstance(row, sources.Prompted):
                _keep_rendered(result, example_id, templates.Rendered(*row))
                continue
            if not isinstance(row, Mapping):
                raise templates.RowError(templates.WRONG_TYPE, "a row is no mapping")
            if template is None:
                _keep_document(result, example_id, row, field)
            else:
                _keep_example(result, example_id, rendered, template)
        except templates.RowError as error:
            result.drop_bad(example_id, error)
    return result


def check_template(template: Any, limits: limited.Limits) -> None:
    """Raises a TemplateError if a template's text does not compile or is not allowed.

    Args:
      template: What `load_template` gives; only Jinja's can be wrong.
      limits: Time and memory that the template may take for a row.
    """
    if limited_rendering.is_strange(template):
        limited_rendering.check(template, limits)
    elif isinstance(template, templates.Template):
        template.check()


_Found = templates.Rendered | templates.RowError | None


def _each_rendered(
    rows: Iterator[tuple[int, sources.Record]],
    template: Any,
    split: str,
    limits: limited.Limits,
) -> Iterator[tuple[int, sources.Record, _Found]]:
    """Yields places and rows; for a row that is a mapping also its rendered texts."""
    if limited_rendering.is_strange(template):
        yield from limited_rendering.each_rendered(rows, template, split, limits)
        return
    for example_id, row in rows:
        result = None
        if template is not None and isinstance(row, Mapping):
            try:
                result = template.render(row, seed=f"{split}/{example_id}")
            except templates.RowError as error:
                result = error
        yield example_id, row, result


def check_utf8(text: templates.Rendered) -> None:
    """Raises a RowError if a text has characters that UTF-8 cannot encode.

    They come from files that are not UTF-8, and from single halves of the surrogate
    pairs that JSON can write.
    """
    try:
        for part in (text.inputs, text.targets, *text.choices):
            if not part.isascii():
                part.encode()
    except UnicodeEncodeError as error:
        raise templates.RowError(templates.NOT_UTF8, str(error)) from error


def _keep_document(
    result: RenderedSplit, example_id: int, row: sources.Row, field: str
) -> None:
    if field not in row:
        raise errors.DataError(
            found=f"a row without the text field {field!r}",
            expected=f"one of its fields: {', '.join(sorted(row))}",
            do=errors.did_you_mean(field, row),
        )
    if nulls.is_null(row[field]):
        raise templates.RowError(templates.NULL_VALUE, f"the field {field!r}")
    text = str(row[field]).strip()
    if text:
        rendered = templates.Rendered("", text, ())
        check_utf8(rendered)
        result.keep(example_id, rendered)
    else:
        result.dropped[EMPTY] += 1


def _keep_example(
    result: RenderedSplit, example_id: int, rendered: _Found, template: Any
) -> None:
    if isinstance(rendered, templates.RowError):
        raise rendered
    if rendered is None:
        result.dropped[EMPTY] += 1
        return
    if template.answer_choices is None:
        check_utf8(rendered)
        result.keep(example_id, rendered)
    else:
        _keep_rendered(result, example_id, rendered, min_choices=2)


def _keep_rendered(
    result: RenderedSplit,
    example_id: int,
    rendered: templates.Rendered,
    *,
    min_choices: int = 0,
) -> None:
    """Adds a rendered row; one with choices has the target among them."""
    check_utf8(rendered)
    if not rendered.choices and not min_choices:
        result.keep(example_id, rendered)
        return
    if len(rendered.choices) < 2:
        raise templates.RowError(TOO_FEW_CHOICES)
    if rendered.targets not in rendered.choices:
        raise templates.RowError(NO_CORRECT_CHOICE)
    # If choices are equal, the first is the label: for ranking they are one answer.
    label = rendered.choices.index(rendered.targets)
    result.keep(example_id, rendered, label=label)


def check_rows(
    task: tasks.Task | tasks.TextTask,
    split: str,
    *,
    num_rows: int,
    num_examples: int,
    dropped: collections.Counter[str],
    first_bad: Mapping[str, str],
) -> None:
    """Raises an error if a split has no examples, or too many rows that do not fit."""
    subject = f"{split} of task {task.name!r}"
    bad = {r: n for r, n in dropped.items() if r.startswith("bad: ")}
    num_bad = sum(bad.values())
    allowed = task.max_bad_share if isinstance(task, tasks.Task) else 0.0
    if num_bad > allowed * num_rows:
        is_prompt = isinstance(task, tasks.Task)
        misfit = f"do not fit its template {task.prompt!r}" if is_prompt else "are bad"
        # If a template fits no row at all, the template is wrong.
        lacking = dropped[f"bad: {templates.MISSING_FIELD}"]
        kind = errors.TemplateError if lacking == num_rows else errors.DataError
        several = f" ({in_words(bad)})" if len(bad) > 1 else ""
        raise kind(
            found=f"{num_bad} of {num_rows} rows in {subject} {misfit}{several}, "
            f"the first is {next(iter(first_bad.values()))}",
            expected=f"at most {allowed:.0%} such rows",
            do="Correct the rows or choose another prompt",
        )
    if not num_examples:
        counts = in_words(dropped) or "none"
        raise errors.DataError(
            found=f"{subject} is empty: {num_rows} rows, dropped {counts}",
            expected="at least one example",
            do="Choose another split or prompt, or correct the source",
        )


def in_words(dropped: Mapping[str, int]) -> str:
    """Returns counts of dropped rows by reason, the commonest first.

    >>> in_words({"skipped: no gold label": 2, "bad: too long": 30})
    '30 x bad: too long, 2 x skipped: no gold label'
    """
    counts = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} x {reason}" for reason, n in counts)
