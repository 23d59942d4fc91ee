"""Rows of texts from Python, rendered and tokenised as rows of files are.

A row is a mapping: `inputs` and `targets` are texts, and `choices`, if the answer is
one of several, is a list of texts with `targets` among them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.data import (
    function_templates,
    rendering,
    span_corruption,
    tasks,
    token_store,
    tokenizing,
    vocabulary,
)

Row = Mapping[str, Any]

_FIELDS = ("inputs", "targets", "choices")
# Longer than any text: what Python gives is scored whole.
_UNCUT = tasks.Features(inputs_length=2**30, targets_length=2**30)


def without_choices(row: Row) -> tuple[str, str]:
    """Returns input and target of a row."""
    return row["inputs"], row["targets"]


def with_choices(row: Row) -> tuple[str, str, Sequence[str]]:
    """Returns input, target and choices of a row."""
    return row["inputs"], row["targets"], row["choices"]


def template(has_choices: bool) -> function_templates.FunctionTemplate:
    """Returns what takes rows as they are, as a template."""
    fn = with_choices if has_choices else without_choices
    return function_templates.FunctionTemplate("as_given", fn, has_choices)


def have_choices(rows: Sequence[Row]) -> bool:
    """Returns whether rows have answer choices.

    Raises:
      DataError: There are no rows, one has other fields, or only some have choices.
    """
    for number, row in enumerate(rows):
        if problem := _problem(row):
            raise _wrong(f"row {number} with {problem}")
    counts = {"choices" in row for row in rows}
    if len(counts) != 1:
        raise _wrong("rows with choices beside rows without" if rows else "no rows")
    return counts.pop()


def _problem(row: Any) -> str:
    """Returns what is wrong with the form of a row, or ""."""
    if not isinstance(row, Mapping):
        return type(row).__name__
    if set(row) not in ({*_FIELDS}, {*_FIELDS[:2]}):
        return f"the fields {', '.join(map(str, row))}"
    choices = row.get("choices", ())
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        return f"choices = {choices!r:.100}"
    texts = (row["inputs"], row["targets"], *choices)
    odd = [text for text in texts if not isinstance(text, str)]
    return f"{odd[0]!r:.100}, which is no text" if odd else ""


def check_numbers(texts: Sequence[str], others: Sequence[Any], what: str) -> None:
    """Raises ConfigError unless there is one of others for each text."""
    if len(texts) != len(others):
        raise errors.ConfigError(
            found=f"{len(texts)} texts, and {len(others)} {what}",
            expected="one for each text",
            do=f"Give as many {what} as texts",
        )


def tokenize(
    rows: Iterable[Row], pieces: vocabulary.SentencePiece, *, has_choices: bool
) -> list[token_store.Example]:
    """Returns rows as examples, which no length cuts.

    Args:
      rows: In the form above.
      pieces: What makes the tokens.
      has_choices: Whether rows have choices.

    Raises:
      DataError: A row is empty, or its target is none of its choices.
    """
    return list(dataset(rows, pieces, has_choices=has_choices))


def dataset(
    rows: Iterable[Row],
    pieces: vocabulary.SentencePiece,
    *,
    has_choices: bool,
    written: str | None = None,
) -> token_store.TokenizedDataset:
    """Returns rows as a split of a task, which no length cuts.

    Args:
      rows: In the form above.
      pieces: What makes the tokens.
      has_choices: Whether rows have choices.
      written: How a template would write the choices of all rows; None for none.

    Raises:
      DataError: A row is empty, or its target is none of its choices.
    """
    rows = list(rows)
    have_choices(rows)
    how = template(has_choices)
    rendered = rendering.render_rows(rows, split="test", template=how)
    if rendered.dropped or not len(rendered):
        reason = next(
            iter((*rendered.first_bad.values(), *rendered.dropped)), "no rows"
        )
        raise _wrong(reason)
    columns = tokenizing.tokenize(rendered, pieces, _UNCUT).columns
    key = {"task": "texts from Python", "split": "given"}
    facts = {"key": key, "answer_choices": written or how.answer_choices}
    facts["fingerprint"] = ""  # nothing of them is kept
    return token_store.TokenizedDataset(columns, facts)


def without_spans(
    texts: Iterable[str], pieces: vocabulary.SentencePiece
) -> list[token_store.Example]:
    """Returns texts with spans missing, which are the one answer of each.

    Args:
      texts: Those of a single token are left out, which is printed.
      pieces: What makes the tokens.

    Raises:
      DataError: A text is empty, or none has two tokens.
      ConfigError: The vocabulary has too few sentinels for a text.
    """
    whole = [{"inputs": text, "targets": text} for text in texts]
    examples = []
    for place, example in enumerate(tokenize(whole, pieces, has_choices=False)):
        if span_corruption.num_tokens(example.inputs) > 1:
            source, spans = span_corruption.without_spans(
                example.inputs, place, vocabulary=pieces, seed=0
            )
            fields = {"inputs": source, "targets": spans, "choices": (spans,)}
            examples.append(example._replace(**fields, choices_text=("",), label=0))
    span_corruption.tell_left_out(len(whole) - len(examples), len(whole), "the texts")
    if not examples:
        raise _wrong("texts of a single token, in which no span can be missing")
    return examples


def _wrong(problem: str) -> errors.DataError:
    return errors.DataError(
        found=problem,
        expected='rows such as {"inputs": "Good or bad? ...", "targets": "good",'
        ' "choices": ["good", "bad"]}, all with choices of one text or more, or none'
        " with any",
        do="Correct the rows",
    )
