"""Texts to tokens by SentencePiece; TensorFlow only for tasks that SeqIO defines.

Tokens of our own tasks are those that SeqIO's preprocessors make of the same texts
(`seqio_tasks.to_seqio`; a test compares them), a row at a time and without TensorFlow.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import errors
from elm_jax.data import (
    rendering,
    seqio_tasks,
    sources,
    tasks,
    templates,
    token_store,
)
from elm_jax.data import vocabulary as vocabularies
from elm_jax.types import EOS_ID

TOKENS = ("inputs", "targets", "choices")
_PERCENTILES = (0, 50, 90, 99, 100)
# Above this share of cut targets a run would mostly learn beginnings.
_MAX_CUT_TARGETS = 0.5


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """Examples as tokens.

    Attributes:
      columns: Cut tokens, and texts.
      lengths: Tokens before cutting, of every row of `TOKENS`: int32.
    """

    columns: token_store.Columns
    lengths: dict[str, np.ndarray]


def tokenize(
    rendered: rendering.RenderedSplit,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    *,
    is_text: bool = False,
) -> Tokenized:
    """Returns texts as tokens, cut to `features`.

    Plain text is not cut: its length is decided when it is corrupted.
    """
    if is_text:
        rows = vocabulary.encode_batch(rendered.targets)
        tokens = {
            "inputs": token_store.Ragged.of([()] * len(rendered)),
            "targets": token_store.Ragged.of(rows),
        }
        return cut_to(rendered, tokens, vocabulary, None)
    inputs = vocabulary.encode_batch(rendered.inputs)
    if features.inputs_eos:
        for row in inputs:
            row.append(EOS_ID)
    known = _encoded({}, rendered.targets, vocabulary)
    targets = [known[text] for text in rendered.targets]
    tokens = {
        "inputs": token_store.Ragged.of(inputs),
        "targets": token_store.Ragged.of(targets),
    }
    return cut_to(rendered, tokens, vocabulary, features, known)


def cut_to(
    rendered: rendering.RenderedSplit,
    tokens: dict[str, token_store.Ragged],
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features | None,
    known: Mapping[str, list[int]] = types.MappingProxyType({}),
) -> Tokenized:
    """Returns inputs, targets and choices cut to `features`, or whole if None.

    Args:
      rendered: The texts.
      tokens: Uncut inputs and targets.
      vocabulary: Of the choices.
      features: Lengths.
      known: Tokens of texts that choices may be, end tokens included.
    """
    choices = [choice for row in rendered.choices for choice in row]
    encoded = _encoded(known, choices, vocabulary)
    ragged = token_store.Ragged.of([encoded[choice] for choice in choices])
    tokens = {**tokens, "choices": ragged}
    limits = limits_of(features)
    short = {name: _cut(tokens[name], limit) for name, limit in limits.items()}
    lengths = {name: tokens[name].lengths.astype(np.int32) for name in TOKENS}
    columns = _columns(
        rendered,
        {**tokens, **short},
        inputs_cut=lengths["inputs"] > limits.get("inputs", np.inf),
    )
    return Tokenized(columns, lengths)


def limits_of(features: tasks.Features | None) -> dict[str, int]:
    """Returns the most tokens of each of `TOKENS`; nothing for plain text."""
    if features is None:
        return {}
    longest = features.targets_length
    return {"inputs": features.inputs_length, "targets": longest, "choices": longest}


def count_lengths(
    what: str, lengths: Mapping[str, np.ndarray], features: tasks.Features | None
) -> dict[str, Any]:
    """Returns how many were cut, and percentiles of lengths, as JSON values.

    Raises:
      DataError: Most targets or choices are cut.
    """
    limits = limits_of(features)
    counts = {
        "cut": {n: int(np.sum(lengths[n] > limit)) for n, limit in limits.items()},
        "length_percentiles": {n: percentiles(lengths[n]) for n in lengths},
    }
    if features is not None:
        _check_cut(what, counts, lengths, features)
    return counts


def user_examples(
    task: tasks.SeqioTask, split: str, vocabulary: vocabularies.SentencePiece
) -> tuple[rendering.RenderedSplit, dict[str, token_store.Ragged]]:
    """Returns texts and uncut tokens of a task that a user registered with SeqIO."""
    seqio_task = seqio_tasks.user_task(task)
    feature = seqio_task.output_features.get("targets")
    size = feature.vocabulary.vocab_size if feature else None
    if size != vocabulary.size:
        raise errors.DataError(
            errors.explain(
                found=f"SeqIO task {task.name!r} with a vocabulary of {size} ids",
                expected=f"targets in the run's vocabulary of {vocabulary.size} ids",
                do="Give both the same SentencePiece model and extra_ids",
            )
        )
    rendering.source_split(task.name, {s: s for s in seqio_task.splits}, split)
    dataset = seqio_task.get_dataset(
        sequence_length=None, split=split, shuffle=False, use_cached=False
    )
    rendered = rendering.RenderedSplit()
    rows: dict[str, list[np.ndarray]] = {"inputs": [], "targets": []}
    for number, example in enumerate(dataset.as_numpy_iterator()):
        rendered.num_rows += 1
        tokens = {name: example.get(name, np.zeros(0, np.int32)) for name in rows}
        texts = []
        for name, ids in tokens.items():
            text = example.get(f"{name}_pretokenized")
            written = vocabulary.decode(ids.tolist()) if text is None else text
            texts.append(sources.decoded(written))
        text = templates.Rendered(texts[0], texts[1], ())
        try:
            rendering.check_utf8(text)
        except templates.RowError as error:
            rendered.drop_bad(number, error)
            continue
        rendered.keep(number, text)
        for name, column in rows.items():
            column.append(tokens[name])
    if not len(rendered):
        raise errors.DataError(
            errors.explain(
                found=f"{split} of SeqIO task {task.name!r} is empty: "
                f"{rendered.num_rows} rows, dropped "
                f"{rendering.in_words(rendered.dropped) or 'none'}",
                expected="at least one example",
                do="Choose another split or correct the task",
            )
        )
    return rendered, {n: token_store.Ragged.of(column) for n, column in rows.items()}


def _encoded(
    known: Mapping[str, list[int]],
    texts: Sequence[str],
    vocabulary: vocabularies.SentencePiece,
) -> dict[str, list[int]]:
    """Returns tokens by text, end tokens included; each text is encoded once."""
    found = dict(known)
    new = [text for text in dict.fromkeys(texts) if text not in found]
    for text, row in zip(new, vocabulary.encode_batch(new), strict=True):
        row.append(EOS_ID)
        found[text] = row
    return found


def _cut(rows: token_store.Ragged, length: int) -> token_store.Ragged:
    """Returns rows of at most `length` tokens; a row keeps the end token it had."""
    is_cut = rows.lengths > length
    if not is_cut.any():
        return rows
    lengths = np.minimum(rows.lengths, length)
    starts = np.repeat(rows.offsets[:-1], rows.lengths)
    place = np.arange(len(rows.values)) - starts
    values = rows.values[place < length]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ended = is_cut & (rows.values[rows.offsets[1:] - 1] == EOS_ID)
    values[offsets[1:][ended] - 1] = EOS_ID
    return token_store.Ragged(values, offsets)


def percentiles(lengths: np.ndarray) -> dict[str, int]:
    """Returns the shortest, middle, 90 %, 99 % and longest length, by percent."""
    if not len(lengths):
        return {}
    found = np.percentile(lengths, _PERCENTILES, method="higher")
    return {str(p): int(v) for p, v in zip(_PERCENTILES, found, strict=True)}


def _check_cut(
    what: str,
    counts: dict[str, Any],
    lengths: Mapping[str, np.ndarray],
    features: tasks.Features,
) -> None:
    """Raises a DataError if most targets or choices are cut; inputs only count."""
    for name in ("targets", "choices"):
        total = max(len(lengths[name]), 1)
        if counts["cut"].get(name, 0) > _MAX_CUT_TARGETS * total:
            longest = counts["length_percentiles"][name]
            raise errors.DataError(
                errors.explain(
                    found=f"{counts['cut'][name]} of {total} {name} in {what} are "
                    f"longer than targets_length={features.targets_length} tokens",
                    expected=f"room for most: half have {longest['50']} tokens, "
                    f"90 % have {longest['90']}, the longest {longest['100']}",
                    do="Set targets_length (TASK_FEATURE_LENGTHS) higher",
                )
            )


def _columns(
    rendered: rendering.RenderedSplit,
    tokens: dict[str, token_store.Ragged],
    inputs_cut: np.ndarray,
) -> token_store.Columns:
    texts = token_store.Ragged.of_texts
    num_choices = [len(row) for row in rendered.choices]
    return token_store.Columns(
        inputs=tokens["inputs"],
        targets=tokens["targets"],
        choices=tokens["choices"],
        choices_of=np.concatenate([[0], np.cumsum(num_choices)]).astype(np.int64),
        labels=np.asarray(rendered.labels, np.int32),
        example_ids=np.asarray(rendered.example_ids, np.int64),
        inputs_text=texts(rendered.inputs),
        targets_text=texts(rendered.targets),
        choices_text=texts([choice for row in rendered.choices for choice in row]),
        inputs_cut=inputs_cut,
    )
