"""Texts to tokens by SentencePiece; TensorFlow only for tasks that SeqIO defines.

The tokens of our own tasks equal those that SeqIO's preprocessors make of the same
texts (`seqio_tasks.to_seqio`; a test compares them), without TensorFlow.
"""

import collections
import dataclasses
import types
from collections.abc import Mapping, Sequence

import numpy as np

from elm_jax import errors
from elm_jax.data import (
    choices,
    rendering,
    seqio_tasks,
    sources,
    tasks,
    templates,
    token_counts,
    token_store,
)
from elm_jax.data import vocabulary as vocabularies
from elm_jax.types import EOS_ID


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """Examples as tokens.

    Attributes:
      columns: Cut tokens, and texts.
      lengths: Tokens before cutting, of every row of `token_counts.TOKENS`: int32.
      indistinct: Rows whose choices cannot be told apart, by reason.
    """

    columns: token_store.Columns
    lengths: dict[str, np.ndarray]
    indistinct: collections.Counter[str]


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
    token_ids = _encoded({}, rendered.targets, vocabulary)
    targets = [token_ids[text] for text in rendered.targets]
    tokens = {
        "inputs": token_store.Ragged.of(inputs),
        "targets": token_store.Ragged.of(targets),
    }
    return cut_to(rendered, tokens, vocabulary, features, token_ids)


def cut_to(
    rendered: rendering.RenderedSplit,
    tokens: dict[str, token_store.Ragged],
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features | None,
    token_ids: Mapping[str, list[int]] = types.MappingProxyType({}),
) -> Tokenized:
    """Returns inputs, targets and choices cut to `features`, or whole if None.

    Args:
      rendered: The texts.
      tokens: Uncut inputs and targets.
      vocabulary: Of the choices.
      features: Lengths.
      token_ids: Tokens of texts that choices may be, end tokens included.
    """
    texts = [choice for row in rendered.choices for choice in row]
    encoded = _encoded(token_ids, texts, vocabulary)
    ragged = token_store.Ragged.of([encoded[text] for text in texts])
    tokens = {**tokens, "choices": ragged}
    limits = token_counts.limits_of(features)
    short = {name: _cut(tokens[name], limit) for name, limit in limits.items()}
    lengths = {n: tokens[n].lengths.astype(np.int32) for n in token_counts.TOKENS}
    indistinct = choices.count_problems(
        rendered.choices, encoded, vocabulary, limit=limits.get("choices")
    )
    columns = _columns(
        rendered,
        {**tokens, **short},
        inputs_cut=lengths["inputs"] > limits.get("inputs", np.inf),
    )
    return Tokenized(columns, lengths, indistinct)


def user_examples(
    task: tasks.SeqioTask, split: str, vocabulary: vocabularies.SentencePiece
) -> tuple[rendering.RenderedSplit, dict[str, token_store.Ragged]]:
    """Returns texts and uncut tokens of a task that a user registered with SeqIO."""
    seqio_task = seqio_tasks.user_task(task)
    feature = seqio_task.output_features.get("targets")
    size = feature.vocabulary.vocab_size if feature else None
    if size != vocabulary.size:
        raise errors.DataError(
            found=f"SeqIO task {task.name!r} with a vocabulary of {size} ids",
            expected=f"targets in the run's vocabulary of {vocabulary.size} ids",
            do="Give both the same SentencePiece model and extra_ids",
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
            found=f"{split} of SeqIO task {task.name!r} is empty: "
            f"{rendered.num_rows} rows, dropped "
            f"{rendering.in_words(rendered.dropped) or 'none'}",
            expected="at least one example",
            do="Choose another split or correct the task",
        )
    return rendered, {n: token_store.Ragged.of(column) for n, column in rows.items()}


def _encoded(
    token_ids: Mapping[str, list[int]],
    texts: Sequence[str],
    vocabulary: vocabularies.SentencePiece,
) -> dict[str, list[int]]:
    """Returns tokens by text, end tokens included; each text is encoded once."""
    encoded = dict(token_ids)
    new = [text for text in dict.fromkeys(texts) if text not in encoded]
    for text, row in zip(new, vocabulary.encode_batch(new), strict=True):
        row.append(EOS_ID)
        encoded[text] = row
    return encoded


def _cut(rows: token_store.Ragged, length: int) -> token_store.Ragged:
    """Returns rows of at most `length` tokens; a cut row keeps its end token."""
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
