"""Texts to tokens: inputs and targets by a SeqIO task, choices by SentencePiece."""

import dataclasses
from typing import Any

import numpy as np

from elm_jax import errors
from elm_jax.data import rendering, seqio_tasks, tasks, templates, token_store
from elm_jax.data import vocabulary as vocabularies
from elm_jax.types import EOS_ID

_BATCH_ROWS = 1024
_PERCENTILES = (0, 50, 90, 99, 100)
# Above this share of cut targets a run would mostly learn beginnings.
_MAX_CUT_TARGETS = 0.5


@dataclasses.dataclass(frozen=True)
class TokenizedSplit:
    """What a cache is written from.

    Attributes:
      columns: Tokens and texts.
      answer_choices: The template's expression for choices, or None.
      counts: JSON values: rows, examples, dropped by reason, cut, length percentiles.
    """

    columns: token_store.Columns
    answer_choices: str | None
    counts: dict[str, Any]


def tokenize_split(
    task: tasks.AnyTask,
    split: str,
    *,
    vocabulary: vocabularies.SentencePiece,
    features: tasks.Features,
    places: tasks.Places,
    progress: rendering.ProgressFn | None = None,
) -> TokenizedSplit:
    """Returns a task's split as tokens, cut to `features`; imports TensorFlow.

    Plain text is not cut: its length is decided when it is corrupted.

    Raises:
      DataError: As `rendering.render_split`, or most targets or choices are longer
        than `features.targets_length`, or a user's SeqIO task has no examples or
        another vocabulary.
    """
    if isinstance(task, tasks.SeqioTask):
        rendered, tokens = _user_examples(task, split, vocabulary)
        template = None
    else:
        rendered = rendering.render_split(task, split, places, progress=progress)
        seqio_task = seqio_tasks.to_seqio(
            task,
            vocabulary=vocabulary,
            features=features,
            places=places,
            render_fn={split: rendered}.__getitem__,
        )
        tokens = _tokens(seqio_task, split, rendered)
        template = None
        if isinstance(task, tasks.Task):
            prompted = rendering.served(task, split, places).is_prompted
            template = None if prompted else task.template.load(places.templates_dir)
    tokens["choices"] = _encode_choices(rendered, vocabulary)
    limits = {"inputs": features.inputs_length, "targets": features.targets_length}
    limits["choices"] = features.targets_length
    if isinstance(task, tasks.TextTask):
        limits = {}
    short = {name: _cut(tokens[name], limit) for name, limit in limits.items()}
    counts = {
        "num_rows": rendered.num_rows,
        "num_examples": len(rendered),
        "dropped": dict(rendered.dropped),
        "cut": {n: int(np.sum(tokens[n].lengths > limits[n])) for n in limits},
        "length_percentiles": {n: _percentiles(tokens[n]) for n in tokens},
        "texts_sha256": rendered.sha256,
    }
    _check_cut(f"{split} of task {task.name!r}", counts, tokens, features)
    return TokenizedSplit(
        columns=_columns(rendered, {**tokens, **short}),
        answer_choices=template.answer_choices if template else None,
        counts=counts,
    )


def _tokens(
    seqio_task: Any, split: str, rendered: rendering.RenderedSplit
) -> dict[str, token_store.Ragged]:
    """Returns uncut inputs and targets of one of our tasks, in the rows' order."""
    dataset = seqio_task.get_dataset(
        sequence_length=None,
        split=split,
        shuffle=False,
        use_cached=False,
        trim_output_features=False,  # There is no length to trim to: saves a pass.
    )
    parts: dict[str, list[token_store.Ragged]] = {"inputs": [], "targets": []}
    ids: list[np.ndarray] = []
    for batch in dataset.ragged_batch(_BATCH_ROWS):
        ids.append(batch["example_id"].numpy())
        for name in parts.keys() & batch.keys():
            splits = batch[name].row_splits.numpy()
            values = batch[name].flat_values.numpy()
            parts[name].append(token_store.Ragged(values, splits))
    if not np.array_equal(np.concatenate(ids), rendered.example_ids):
        raise RuntimeError(f"SeqIO changed the order of {seqio_task.name!r}")
    empty = token_store.Ragged.of([()] * len(rendered))
    return {
        name: token_store.Ragged.joined(found) if found else empty
        for name, found in parts.items()
    }


def _user_examples(
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
    for example in dataset.as_numpy_iterator():
        texts = {}
        for name, column in rows.items():
            column.append(example.get(name, np.zeros(0, np.int32)))
            text = example.get(f"{name}_pretokenized")
            ids = column[-1].tolist()
            texts[name] = vocabulary.decode(ids) if text is None else text.decode()
        text = templates.Rendered(texts["inputs"], texts["targets"], ())
        rendered.keep(rendered.num_rows, text)
        rendered.num_rows += 1
    if not len(rendered):
        raise errors.DataError(
            errors.explain(
                found=f"{split} of SeqIO task {task.name!r} is empty",
                expected="at least one example",
                do="Choose another split or correct the task",
            )
        )
    return rendered, {n: token_store.Ragged.of(column) for n, column in rows.items()}


def _encode_choices(
    rendered: rendering.RenderedSplit, vocabulary: vocabularies.SentencePiece
) -> token_store.Ragged:
    """Returns the choices of all rows end to end, each with an end token."""
    flat = [choice for row in rendered.choices for choice in row]
    unique = list(dict.fromkeys(flat))
    encoded = dict(zip(unique, vocabulary.encode_batch(unique), strict=True))
    return token_store.Ragged.of([[*encoded[choice], EOS_ID] for choice in flat])


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


def _percentiles(rows: token_store.Ragged) -> dict[str, int]:
    if not len(rows.lengths):
        return {}
    found = np.percentile(rows.lengths, _PERCENTILES, method="higher")
    return {str(p): int(v) for p, v in zip(_PERCENTILES, found, strict=True)}


def _check_cut(
    what: str,
    counts: dict[str, Any],
    tokens: dict[str, token_store.Ragged],
    features: tasks.Features,
) -> None:
    """Raises a DataError if most targets or choices are cut; inputs only count."""
    for name in ("targets", "choices"):
        total = max(len(tokens[name].lengths), 1)
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
    rendered: rendering.RenderedSplit, tokens: dict[str, token_store.Ragged]
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
    )
