"""Strangers' templates rendered in a process with limits, rows in batches.

Whoever writes a template decides what it costs. So a template that does not come from a
file that the project knows by its hash has a process to itself (`limited`): one that
works without end, or takes all memory, ends with that process and an error that names
template and row.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.data import sources, templates
from elm_jax.limits import limited

# A pickled row above this is surely longer than `templates.MAX_ROW_CHARS` allows.
_MAX_ROW_BYTES = 16 * templates.MAX_ROW_CHARS
# Rows that travel at once; each is held here and there.
_BATCH_BYTES = 1 << 24

Found = templates.Rendered | templates.RowError | None
_TEXT, _ROW, _TEMPLATE = "text", "row", "template"


def is_strange(template: Any) -> bool:
    """Returns whether a template may be a stranger's; functions are the user's own."""
    return isinstance(template, templates.Template) and not template.is_known


def check(template: templates.Template, limits: limited.Limits) -> None:
    """Raises a TemplateError if a text does not compile or is not allowed."""
    try:
        (found,) = limited.worker(limits).map(_name(checker), _text(template), [None])
    except limited.LimitError as error:
        raise _too_much(template, "", error, limits) from error
    if found is not None:
        raise errors.TemplateError(found)


def render(
    template: templates.Template,
    split: str,
    rows: Sequence[tuple[int, sources.Row]],
    limits: limited.Limits,
) -> list[Found]:
    """Returns what a template makes of rows, as `templates.Template.render`.

    Args:
      template: The template.
      split: Part of the seed of random choices.
      rows: Places in the source, and rows.
      limits: Of each row.

    Raises:
      TemplateError: It does not compile, does something unsafe or crosses a limit.
    """
    found: list[Found] = [None] * len(rows)
    waiting: list[tuple[int, int, bytes]] = []
    size = 0
    for place, (example_id, row) in enumerate(rows):
        packed = _packed(row)
        if isinstance(packed, templates.RowError):
            found[place] = packed
            continue
        waiting.append((place, example_id, packed))
        size += len(packed)
        if size > _BATCH_BYTES:
            _fill(found, waiting, template, split, limits)
            waiting, size = [], 0
    _fill(found, waiting, template, split, limits)
    return found


def checker(text: dict[str, Any]) -> Callable[[None], str | None]:
    """Returns, in the process with limits, what compiles a template."""

    def check_once(item: None) -> str | None:
        del item
        try:
            templates.Template(**text).check()
        except errors.TemplateError as error:
            return str(error)
        return None

    return check_once


def renderer(text: dict[str, Any]) -> Callable[[tuple[str, bytes]], Any]:
    """Returns, in the process with limits, what renders a row of seed and content."""
    template = templates.Template(**text)

    def render_one(item: tuple[str, bytes]) -> Any:
        seed, packed = item
        try:
            # Of the process that started this one, which has read the row.
            found = template.render(pickle.loads(packed), seed=seed)  # noqa: S301
        except templates.RowError as error:
            return [_ROW, error.reason, error.detail]
        except errors.TemplateError as error:
            return [_TEMPLATE, str(error)]
        return None if found is None else [_TEXT, *found]

    return render_one


def _packed(row: sources.Row) -> bytes | templates.RowError:
    try:
        packed = pickle.dumps(dict(row), pickle.HIGHEST_PROTOCOL)
    except RecursionError:
        return templates.RowError(templates.WRONG_TYPE, "fields nested too deep")
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        return templates.RowError(templates.WRONG_TYPE, str(error))
    if len(packed) > _MAX_ROW_BYTES:
        limit = f"more than {templates.MAX_ROW_CHARS:,} characters"
        return templates.RowError(templates.TOO_LONG, limit)
    return packed


def _fill(
    found: list[Found],
    waiting: Sequence[tuple[int, int, bytes]],
    template: templates.Template,
    split: str,
    limits: limited.Limits,
) -> None:
    """Puts what rows become to their places."""
    items = [(f"{split}/{example_id}", packed) for _, example_id, packed in waiting]
    try:
        answers = limited.worker(limits).map(_name(renderer), _text(template), items)
    except limited.LimitError as error:
        where = f" for row {waiting[error.index][1]}"
        raise _too_much(template, where, error, limits) from error
    for (place, _, _), answer in zip(waiting, answers, strict=True):
        if answer is None:
            continue
        kind, *rest = answer
        if kind == _TEMPLATE:
            raise errors.TemplateError(*rest)
        if kind == _ROW:
            found[place] = templates.RowError(*rest)
        else:
            inputs, targets, choices = rest
            found[place] = templates.Rendered(inputs, targets, tuple(choices))


def _name(function: Callable[..., Any]) -> str:
    return f"{__name__}:{function.__name__}"


def _text(template: templates.Template) -> dict[str, Any]:
    """Returns the fields of a template that decide what it makes."""
    names = ("name", "id", "jinja", "answer_choices", "max_value_chars")
    return {name: getattr(template, name) for name in names}


def _too_much(
    template: templates.Template,
    where: str,
    error: limited.LimitError,
    limits: limited.Limits,
) -> errors.TemplateError:
    return errors.TemplateError(
        found=f"template {template.name!r} took too much{where}: {error.reason}",
        expected=f"{limits}, for each row",
        do="Use another template, or raise the limits of the task data",
    )
