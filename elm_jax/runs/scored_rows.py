"""What result rows tell of the examples they score, known before anything is scored."""

import collections
import dataclasses
from collections.abc import Sequence

from elm_jax import errors
from elm_jax.data import choices, token_store, vocabulary
from elm_jax.evaluation import answers, results
from elm_jax.library import sampling
from elm_jax.runs import queries
from elm_jax.types import EOS_ID


def choose(
    num_rows: int,
    *,
    split: str,
    retrieval: queries.Queries | None,
    seed: int,
    most: int,
) -> list[int]:
    """Returns the rows to score: none of them a query, all of them if allowed.

    Args:
      num_rows: How many rows the split has.
      split: The name of the split.
      retrieval: How a library is asked; None if none is.
      seed: The seed of the choice; where a library is asked, its queries' seed counts.
      most: Rows at most; 0 for all.
    """
    num_queries = retrieval.num_queries if retrieval and retrieval.split == split else 0
    parts = sampling.divide_rows(
        num_rows,
        seed=retrieval.random_seed if retrieval else seed,
        num_queries=num_queries,
    )
    return sorted(parts.evaluation[: most or None].tolist())


def check_unseen(question: queries.Question, scored: Sequence[int]) -> None:
    """Raises DataError if a row is both a query with a label and scored.

    Where rows of the split are keys of the library, those that ask are found by its
    seed and not by that of `choose`.

    Args:
      question: A question by rows whose labels are read.
      scored: Places of the rows of the same split that are scored.
    """
    shared_rows = {*question.rows} & {*scored}
    if shared_rows:
        raise errors.DataError(
            found=f"{len(shared_rows)} rows of {question.task}"
            f" {question.dataset.split} whose labels choose an expert, and that are"
            " scored",
            expected="scores of other rows than those that ask",
            do="Ask by a split of which the library has no keys, or that is not scored",
        )


def facts(
    dataset: token_store.TokenizedDataset,
    rows: Sequence[int],
    pieces: vocabulary.SentencePiece,
) -> results.Facts:
    """Returns the facts about some rows of a dataset.

    Args:
      dataset: The tokens of a task's split.
      rows: Their places in it.
      pieces: The vocabulary that gave the tokens.

    Raises:
      DataError: There is no row, or the task has choices and no model can tell apart
        any two of any row: every score would be chance.
    """
    if not len(rows):
        raise errors.DataError(
            found=f"no row to score in {dataset.name} {dataset.split}, which has"
            f" {len(dataset)}",
            expected="one or more, besides those that queries are drawn from",
            do="Score another split, or ask the library with fewer queries",
        )
    cut = dataset.columns.inputs_cut[list(rows)]
    row_facts = results.Facts(
        data_fingerprint=dataset.fingerprint,
        split_rows=len(dataset),
        inputs_cut=100.0 * float(cut.mean()),
    )
    if not dataset.has_choices:
        return row_facts
    doubtful = [dataset[row] for row in rows if _has_equal_choices(dataset, row)]
    limit = dataset.manifest["key"]["targets_length"]
    counts = collections.Counter(_reason(row, pieces, limit) for row in doubtful)
    reasons = dict(counts.most_common())
    num_apart = len(rows) - len(doubtful) + sum(map(answers.are_any_apart, doubtful))
    if not num_apart:
        raise errors.DataError(_all_alike(dataset, reasons))
    return dataclasses.replace(
        row_facts,
        undistinguished=100.0 * len(doubtful) / len(rows),
        undistinguished_reasons=reasons,
    )


def _has_equal_choices(dataset: token_store.TokenizedDataset, row: int) -> bool:
    """Returns whether a row has choices of the same tokens."""
    start, stop = dataset.columns.choices_of[row : row + 2].tolist()
    tokens = {dataset.columns.choices.row(i).tobytes() for i in range(start, stop)}
    return len(tokens) < stop - start


def _reason(
    example: token_store.Example, pieces: vocabulary.SentencePiece, limit: int
) -> str:
    """Returns why choices of an example that has equal ones are alike."""
    texts = example.choices_text
    whole = [[*ids, EOS_ID] for ids in pieces.encode_batch(texts)]
    return choices.problem(texts, whole, pieces, limit=limit)


def _all_alike(dataset: token_store.TokenizedDataset, reasons: dict[str, int]) -> str:
    counted = ", ".join(f"{count} rows: {name}" for name, count in reasons.items())
    return errors.explain(
        found=f"no choices that a model can tell apart in {dataset.name}"
        f" {dataset.split} ({counted})",
        expected="choices of different tokens in this vocabulary and length",
        do="Use a vocabulary that has these characters, a greater targets_length, or"
        " other answer choices; or leave the task out",
    )
