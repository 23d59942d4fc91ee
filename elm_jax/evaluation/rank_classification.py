"""Rank classification: the choice with the greatest log-probability is the answer.

Score of a choice = sum of its tokens' log-probabilities, end token included, in
float32. Choices of one text are one answer, and an answer's score is that of its best
choice. Where n answers share the best score and the right one is among them, the row
counts as 1/n right: what a fair draw among them gives on average. So neither luck nor
the order of the choices raises an accuracy, and a row whose answers no model can tell
apart (see `answers`) is worth its chance, whatever the model. No row is left out for
that: the rows that stay would depend on the vocabulary, and, if only those went whose
right answer is hidden, on the label. Such rows and ties are counted instead. Chance is
a fair guess among answers, so 50 for `yes, no, no`.

The paper's code and T0's give a tie to its first choice; without ties all agree.

Reference: the evaluation of arXiv 2302.03202 and of T0 (arXiv 2110.08207).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from elm_jax import errors, types
from elm_jax.evaluation import answers, batching


class ChoiceExample(answers.Choices, Protocol):
    """A tokenised question with its answer choices."""

    @property
    def inputs(self) -> np.ndarray:
        """Int32 [length]."""
        ...

    @property
    def label(self) -> int:
        """Position of the right choice."""
        ...

    @property
    def example_id(self) -> int:
        """The dataset's row, the same under every prompt."""
        ...


class Examples(Protocol):
    """Examples by position, such as a list or a tokenised dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> ChoiceExample: ...


@dataclasses.dataclass(frozen=True)
class RankOutcome:
    """The outcome of rank classification, in the order of the examples.

    Attributes:
      example_ids: int64 [n], dataset rows.
      labels: int32 [n], the right choices.
      predictions: int32 [n], the chosen ones, the first of those with the best score.
      scores: n arrays float32 [num_choices], in nats (per token if normalised).
      answers: n arrays int32 [num_choices], the number of each choice's answer.
    """

    example_ids: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    scores: tuple[np.ndarray, ...]
    answers: tuple[np.ndarray, ...]

    @functools.cached_property
    def credit(self) -> np.ndarray:
        """Float64 [n] in [0, 1]: 1/m where the right answer is one of the m best."""
        credits_of_rows = np.zeros(len(self.labels))
        for i, (best, numbers) in enumerate(zip(self._best, self.answers, strict=True)):
            if numbers[self.labels[i]] in best:
                credits_of_rows[i] = 1.0 / len(best)
        return credits_of_rows

    @property
    def num_ties(self) -> int:
        """Examples whose best score belongs to more than one answer."""
        return sum(len(best) > 1 for best in self._best)

    @property
    def accuracy(self) -> float:
        """Mean credit, in percent."""
        return 100.0 * float(self.credit.mean())

    @property
    def num_choices(self) -> np.ndarray:
        """Int32 [n]: how many choices each example has."""
        return np.array([len(scores) for scores in self.scores], np.int32)

    @property
    def chance(self) -> float:
        """Accuracy of a fair guess among answers, in percent."""
        counts = np.array([numbers.max() + 1 for numbers in self.answers])
        return 100.0 * float((1.0 / counts).mean())

    def per_example(self) -> dict[str, np.ndarray]:
        """Returns the arrays that a result store keeps for this outcome."""
        return {
            "example_ids": self.example_ids,
            "accuracy": 100.0 * self.credit.astype(np.float32),
            "labels": self.labels,
            "predictions": self.predictions,
            "num_choices": self.num_choices,
            "scores": np.concatenate(self.scores),
        }

    @functools.cached_property
    def _best(self) -> list[np.ndarray]:
        """The answers with the best score of each example."""
        return [
            np.unique(numbers[scores == scores.max()])
            for scores, numbers in zip(self.scores, self.answers, strict=True)
        ]


def rank_classify(
    score_fn: types.ScoreFn,
    examples: Examples,
    *,
    batch_size: int,
    length_normalized: bool = False,
    least_input_length: int = 32,
    progress: batching.Progress | None = None,
) -> RankOutcome:
    """Returns scores and predictions of all examples.

    Examples of like shape share a batch, in an order of their content, so that the
    order in which they come changes no bit, and the batch size only rounding.

    Args:
      score_fn: Scores a batch of choices; the parameters are already in it.
      examples: One or more examples.
      batch_size: Examples per call of `score_fn`, all devices together.
      length_normalized: Divide a score by its number of tokens; the paper does not.
      least_input_length: Inputs are padded to this, or to a greater static length
        (see `batching.round_up`).
      progress: Called after every batch with examples done and in all.

    Raises:
      DataError: There is no example, or one has no choice, an empty choice or a
        label that is none of its choices.
      CheckpointError: A score is not finite.
    """
    rows = [examples[index] for index in range(len(examples))]
    _check(rows)

    def shape_of(example: ChoiceExample) -> tuple[int, int, int]:
        longest = max(len(choice) for choice in example.choices)
        return (
            batching.round_up(len(example.inputs), least=least_input_length),
            batching.round_up(longest, least=8),
            1 << (len(example.choices) - 1).bit_length(),  # the next power of two
        )

    def arguments(positions: np.ndarray) -> tuple[np.ndarray, ...]:
        chosen = [rows[position] for position in positions]
        shapes = [shapes_and_content[position][0] for position in positions]
        return _pack(chosen, *np.max(shapes, axis=0).tolist())

    shapes_and_content = [(shape_of(row), _content(row)) for row in rows]
    batches = batching.cut(shapes_and_content, batch_size)
    scores: list[np.ndarray] = [np.empty(0)] * len(rows)
    for position, scored in batching.run(
        score_fn, batches, arguments, total=len(rows), progress=progress
    ):
        scores[position] = _finish(scored, rows[position], length_normalized)
    return _outcome(rows, scores)


def _check(rows: Sequence[ChoiceExample]) -> None:
    problem = "" if rows else "no example"
    for position, row in enumerate(rows):
        if not all(len(choice) for choice in row.choices):
            problem = f"example {position} has a choice without tokens"
        elif not 0 <= row.label < len(row.choices):
            problem = f"example {position} has label {row.label} and"
            problem += f" {len(row.choices)} choices"
        if problem:
            break
    if problem:
        raise errors.DataError(
            found=problem,
            expected="one or more examples whose label is one of their choices",
            do="Check the task's answer choices and its split",
        )


def _content(row: ChoiceExample) -> tuple[bytes, ...]:
    arrays = (row.inputs, *row.choices)
    return tuple(np.asarray(array, np.int32).tobytes() for array in arrays)


def _pack(
    rows: Sequence[ChoiceExample],
    input_length: int,
    choice_length: int,
    num_choices: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns inputs [B, S], choices [B, C, T] and choice mask [B, C]."""
    counts = np.array([len(row.choices) for row in rows])
    mask = np.arange(num_choices) < counts[:, np.newaxis]
    choices = np.zeros((*mask.shape, choice_length), np.int32)
    flat = [choice for row in rows for choice in row.choices]
    choices[mask] = batching.pad(flat, choice_length)
    return batching.pad([row.inputs for row in rows], input_length), choices, mask


def _finish(
    scores: np.ndarray, row: ChoiceExample, length_normalized: bool
) -> np.ndarray:
    """Returns the scores [num_choices] of one example, equal for equal choices."""
    scores = np.array(scores[: len(row.choices)], np.float32)
    if not np.isfinite(scores).all():
        raise errors.CheckpointError(
            found=f"log-probabilities {scores.tolist()} of the choices of example"
            f" {row.example_id}",
            expected="finite ones: of others none is the greatest",
            do="Look at the losses of the training behind these parameters, or at"
            " where they were imported from",
        )
    # Equal tokens at different places of a batch may differ in the last bit; a tie
    # must stay a tie, or the first choice does not win.
    first_places: dict[bytes, int] = {}
    for position, choice in enumerate(row.choices):
        scores[position] = scores[first_places.setdefault(choice.tobytes(), position)]
    if length_normalized:
        scores /= np.array([len(choice) for choice in row.choices], np.float32)
    return scores


def _outcome(
    rows: Sequence[ChoiceExample], scores: Sequence[np.ndarray]
) -> RankOutcome:
    return RankOutcome(
        example_ids=np.array([row.example_id for row in rows], np.int64),
        labels=np.array([row.label for row in rows], np.int32),
        predictions=np.array([np.argmax(row) for row in scores], np.int32),
        scores=tuple(scores),
        answers=tuple(answers.number(row.choices_text) for row in rows),
    )
