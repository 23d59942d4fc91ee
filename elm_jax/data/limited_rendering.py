"""Strangers' templates rendered in a process with limits, rows in chunks.

Whoever writes a template decides what it costs. So a template that does not come from a
file that the project knows by its hash has a process to itself (`limited`): one that
works without end, or takes all memory, ends with that process and an error that names
template and row.

A row alone costs as much to send as to render. So many travel as one, and have the
limits of one; only where they cross those is each rendered by itself.
"""

import collections
import concurrent.futures
import itertools
import json
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from elm_jax import errors
from elm_jax.data import records, sources, templates
from elm_jax.limits import limited

# A pickled row above this is surely longer than `templates.MAX_ROW_CHARS` allows.
_MAX_PICKLED_BYTES = 16 * templates.MAX_ROW_CHARS

_CHUNK_ROWS = 512  # that go to the process at once

_T = TypeVar("_T")
_R = TypeVar("_R")
Found = templates.Rendered | templates.RowError | None
_ROW, _TEMPLATE = "row", "template"
_HEADER = struct.Struct("<Q")


def is_strange(template: Any) -> bool:
    """Returns whether a template may be a stranger's; functions are the user's own."""
    return isinstance(template, templates.Template) and not template.is_known


def check(template: templates.Template, limits: limited.Limits) -> None:
    """Raises a TemplateError if a text does not compile or is not allowed."""
    try:
        (problem,) = limited.worker(limits).map(_name(checker), _text(template), [None])
    except limited.LimitError as error:
        raise _too_much(template, "", error, limits) from error
    if problem is not None:
        raise errors.TemplateError(problem)


def each_rendered(
    rows: Iterator[tuple[int, sources.Record]],
    template: templates.Template,
    split: str,
    limits: limited.Limits,
) -> Iterator[tuple[int, sources.Record, Found]]:
    """Yields places and rows; for a row that is a mapping also its rendered texts.

    While some rows are used here, the next ones are rendered in the other process.

    Raises:
      TemplateError: As `render`.
    """

    def render_some(
        some: list[tuple[int, sources.Record]],
    ) -> list[tuple[int, sources.Record, Found]]:
        mappings = [(place, row) for place, row in some if isinstance(row, Mapping)]
        outcomes = iter(render(template, split, mappings, limits))
        return [
            (place, row, next(outcomes) if isinstance(row, Mapping) else None)
            for place, row in some
        ]

    for rendered in _ahead(render_some, _chunks(rows)):
        yield from rendered


def render(
    template: templates.Template,
    split: str,
    rows: Sequence[tuple[int, records.Row]],
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
    packed = _packed(rows)
    if isinstance(packed, templates.RowError) and len(rows) == 1:
        return [packed]
    if isinstance(packed, bytes):
        try:
            (answer,) = limited.worker(limits).map(
                _name(renderer), (_text(template), split), [packed]
            )
            return _unpacked(answer)
        except limited.LimitError as error:
            if len(rows) == 1:
                row_text = f" for row {rows[0][0]}"
                raise _too_much(template, row_text, error, limits) from error
    return [
        outcome for row in rows for outcome in render(template, split, [row], limits)
    ]


def _chunks(
    rows: Iterator[tuple[int, sources.Record]],
) -> Iterator[list[tuple[int, sources.Record]]]:
    while some := list(itertools.islice(rows, _CHUNK_ROWS)):
        yield some


def _ahead(do: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """Yields `do(item)` for each item; threads compute the next ones meanwhile."""
    pool = concurrent.futures.ThreadPoolExecutor(2)
    try:
        waiting: collections.deque[concurrent.futures.Future[_R]] = collections.deque()
        for item in items:
            waiting.append(pool.submit(do, item))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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


def renderer(shared: tuple[dict[str, Any], str]) -> Callable[[bytes], bytes]:
    """Returns, in the process with limits, what renders pickled rows."""
    text, split = shared
    template = templates.Template(**text)

    def outcomes(packed: bytes) -> Iterator[Found | errors.TemplateError]:
        # Of the process that started this one, which has read the rows.
        for example_id, row in zip(*pickle.loads(packed), strict=True):  # noqa: S301
            try:
                yield template.render(row, seed=f"{split}/{example_id}")
            except templates.RowError as error:
                yield error
            except errors.TemplateError as error:
                yield error
                return

    return lambda packed: _answer(outcomes(packed))


def _packed(rows: Sequence[tuple[int, records.Row]]) -> bytes | templates.RowError:
    """Returns rows as bytes, or what is wrong with one of them."""
    try:
        plain = [row if type(row) is dict else dict(row) for _, row in rows]
        ids = [example_id for example_id, _ in rows]
        packed = pickle.dumps((ids, plain), pickle.HIGHEST_PROTOCOL)
    except RecursionError:
        return templates.RowError(templates.WRONG_TYPE, "fields nested too deep")
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        return templates.RowError(templates.WRONG_TYPE, str(error))
    if len(packed) > _MAX_PICKLED_BYTES:
        limit = f"more than {templates.MAX_ROW_CHARS:,} characters"
        return templates.RowError(templates.TOO_LONG, limit)
    return packed


def _answer(outcomes: Iterable[Found | errors.TemplateError]) -> bytes:
    """Returns outcomes as bytes: what each is and lengths in JSON, then all texts."""
    kinds: list[Any] = []
    texts: list[str] = []
    for outcome in outcomes:
        if outcome is None:
            kinds.append(None)
        elif isinstance(outcome, templates.Rendered):
            kinds.append(len(outcome.choices))
            texts += outcome[:2]
            texts += outcome.choices
        elif isinstance(outcome, templates.RowError):
            kinds.append([_ROW, outcome.reason, outcome.detail])
        else:
            kinds.append([_TEMPLATE, str(outcome)])
    head = _encoded(json.dumps([kinds, [*map(len, texts)]], ensure_ascii=False))
    return _HEADER.pack(len(head)) + head + _encoded("".join(texts))


def _unpacked(answer: bytes) -> list[Found]:
    """Returns the outcomes of an answer; raises the worker's TemplateError, if any."""
    (size,) = _HEADER.unpack_from(answer)
    start = _HEADER.size + size
    kinds, lengths = json.loads(_decoded(answer[_HEADER.size : start]))
    text = _decoded(answer[start:])
    places = itertools.accumulate(lengths, initial=0)
    texts = [text[start:end] for start, end in itertools.pairwise(places)]
    outcomes: list[Found] = []
    place = 0
    for kind in kinds:
        if isinstance(kind, int):
            inputs, targets, *choices = texts[place : place + 2 + kind]
            outcomes.append(templates.Rendered(inputs, targets, tuple(choices)))
            place += 2 + kind
        elif kind is None:
            outcomes.append(None)
        elif kind[0] == _ROW:
            outcomes.append(templates.RowError(*kind[1:]))
        else:
            raise errors.TemplateError(kind[1])
    return outcomes


def _encoded(text: str) -> bytes:
    # Halves of surrogate pairs stay what they are.
    return text.encode("utf-8", "surrogatepass")


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _name(function: Callable[..., Any]) -> str:
    return f"{__name__}:{function.__name__}"


def _text(template: templates.Template) -> dict[str, Any]:
    """Returns the fields of a template that decide what it makes."""
    names = ("name", "id", "jinja", "answer_choices", "max_value_chars")
    return {name: getattr(template, name) for name in names}


def _too_much(
    template: templates.Template,
    row_text: str,
    error: limited.LimitError,
    limits: limited.Limits,
) -> errors.TemplateError:
    return errors.TemplateError(
        found=f"template {template.name!r} took too much{row_text}: {error.reason}",
        expected=f"{limits}, for each row",
        do="Use another template, or raise the limits of the task data",
    )
