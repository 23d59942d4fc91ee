"""Answers of many models on the same rows, packed, so that a page compares any two.

The page subtracts answers row by row and gives normal intervals
(`page_differences.js`). Of an answer it has the place of its score in a list of the
scores that occur. This takes one bit where answers are right or wrong: 296 experts on
113 prompts of 300 rows take 1.3 MB.
"""

import base64
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe
import numpy as np

from elm_jax.reporting import embedded

Key = tuple[str, str]  # dataset, task
# Characters of packed answers in a page; 8 MB are 1,000 models on 113 prompts of 300
# rows.
MOST_CHARACTERS = 8_000_000
_MOST_EXACT = 256  # different scores; of more, such as of ROUGE, 0.01 points are kept


@dataclasses.dataclass(frozen=True)
class Task:
    """A column of a comparison.

    Attributes:
      dataset: The task's dataset.
      prompt: The name of the task's prompt.
      task: Its full name.
      example_ids: int64 [n], the rows of the dataset that it has, each once, in order.
    """

    dataset: str
    prompt: str
    task: str
    example_ids: np.ndarray

    @property
    def key(self) -> Key:
        """The key under which answers are kept: dataset and task."""
        return self.dataset, self.task


@dataclasses.dataclass(frozen=True)
class Model:
    """A model whose answers are compared.

    Attributes:
      label: The model's name.
      answers: By task, float64 [n] scores in percent, in the order of the task's ids.
      is_expert: Whether it is a single expert.
      is_bound: Whether it was chosen by these answers; it gets no interval.
      num_trainings: Training seeds of whose answers these are the means.
    """

    label: str
    answers: Mapping[Key, np.ndarray]
    is_expert: bool = False
    is_bound: bool = False
    num_trainings: int = 1


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Models of which a reader may compare any two.

    Attributes:
      tasks: The tasks, those of a dataset together.
      models: In the order in which they are offered, the best experts first.
      first: Label of the model that is compared when the page opens.
      second: Label of the one that it is compared with.
    """

    tasks: tuple[Task, ...]
    models: tuple[Model, ...]
    first: str
    second: str


def draw(pairs: Pairs) -> dict[str, Any]:
    """Returns what the template prints: data for the script, and what data lack."""
    codes: list[_Code] = []
    packed: list[list[bytes]] = [[] for _ in pairs.models]
    for task in pairs.tasks:
        answering = [
            place for place, model in enumerate(pairs.models) if _has(model, task)
        ]
        answers = [pairs.models[place].answers[task.key] for place in answering]
        every = np.stack(answers) if answering else np.zeros((0, 1))
        codes.append(_Code.of(every))
        for place, line in zip(answering, codes[-1].pack(every), strict=True):
            packed[place].append(line.tobytes())
    shown = pairs.models[: _num_fitting(packed)]
    models: list[dict[str, Any]] = [
        {
            "label": model.label,
            "isExpert": model.is_expert,
            "isBound": model.is_bound,
            "numTrainings": model.num_trainings,
            "lacks": [i for i, t in enumerate(pairs.tasks) if not _has(model, t)],
            "answers": base64.b64encode(b"".join(parts)).decode(),
        }
        for model, parts in zip(shown, packed, strict=False)
    ]
    num_experts = sum(model.is_expert for model in pairs.models)
    return {
        "data": _data(pairs, codes, models, num_experts),
        "left_out": len(pairs.models) - len(models),
        "num_models": len(models),
        "num_lines": _num_lines(pairs),
    }


def _data(
    pairs: Pairs,
    codes: Sequence["_Code"],
    models: Sequence[Mapping[str, Any]],
    num_experts: int,
) -> markupsafe.Markup:
    datasets = list(dict.fromkeys(task.dataset for task in pairs.tasks))
    rows = {name: _rows(pairs.tasks, name) for name in datasets}
    tasks = []
    for task, code in zip(pairs.tasks, codes, strict=True):
        row_ids = rows[task.dataset]
        is_whole = np.array_equal(row_ids, task.example_ids)
        tasks.append(
            {
                "dataset": datasets.index(task.dataset),
                "prompt": task.prompt,
                "numRows": len(task.example_ids),
                # Places among the dataset's rows; null for all in their order.
                "places": None
                if is_whole
                else np.searchsorted(row_ids, task.example_ids).tolist(),
                "scores": code.scores.tolist(),
                "bits": code.bits,
            }
        )
    miss = 0.05 / (2 * _num_lines(pairs))
    return embedded.json(
        {
            "datasets": [
                {"name": name, "numRows": len(rows[name])} for name in datasets
            ],
            "tasks": tasks,
            "models": models,
            "numExperts": num_experts,
            "first": pairs.first,
            "second": pairs.second,
            # Standard errors to the ends of a 95 % interval, and of all lines at once.
            "reach": statistics.NormalDist().inv_cdf(0.975),
            "reachAtOnce": statistics.NormalDist().inv_cdf(1 - miss),
        }
    )


def _num_lines(pairs: Pairs) -> int:
    """Returns the number of differences in a table: prompts, datasets, their mean."""
    return len(pairs.tasks) + len({task.dataset for task in pairs.tasks}) + 1


def _rows(tasks: Sequence[Task], dataset: str) -> np.ndarray:
    """Returns the ids of all rows of a dataset, in order."""
    first, *rest = [t.example_ids for t in tasks if t.dataset == dataset]
    if all(np.array_equal(first, ids) for ids in rest):
        return first
    return np.unique(np.concatenate([first, *rest]))


def _has(model: Model, task: Task) -> bool:
    return task.key in model.answers


@dataclasses.dataclass(frozen=True)
class _Code:
    """How the answers of a task become bits.

    Attributes:
      scores: float64, those that occur, in order.
      bits: Of the place of a score; 1, 2, 4, 8 or 16.
      step: To what scores are rounded first; 0 for not at all.
    """

    scores: np.ndarray
    bits: int
    step: float = 0.0

    @classmethod
    def of(cls, answers: np.ndarray) -> "_Code":
        """Returns that of answers [models, rows]."""
        scores = _different(answers) if answers.size else np.zeros(1)
        step = 0.0 if len(scores) <= _MOST_EXACT else 0.01
        if step:
            scores = np.unique(np.round(scores, 2))
        needed = max(1, math.ceil(math.log2(len(scores))))
        return cls(scores, next(b for b in (1, 2, 4, 8, 16) if b >= needed), step)

    def pack(self, answers: np.ndarray) -> np.ndarray:
        """Returns the places of scores, high bits first; of 16 bits, low byte first.

        Args:
          answers: [models, rows].

        Returns:
          uint8 [models, bytes].
        """
        if self.step:
            answers = np.round(answers, 2)
        places = np.searchsorted(self.scores, answers)
        if self.bits == 16:
            return np.ascontiguousarray(places.astype("<u2")).view(np.uint8)
        if self.bits == 1:
            return np.packbits(places.astype(bool), axis=1)
        per_byte = 8 // self.bits
        number = places.shape[1]
        padded = np.zeros((len(places), -number % per_byte + number), np.uint8)
        padded[:, :number] = places
        shifts = np.arange(per_byte)[::-1] * self.bits
        parts = padded.reshape(len(places), -1, per_byte).astype(np.int64) << shifts
        return parts.sum(axis=2).astype(np.uint8)


def _different(values: np.ndarray) -> np.ndarray:
    """Returns the scores that occur, in order: mostly two, those of right and wrong."""
    ends = np.unique([values.min(), values.max()])
    if ((values == ends[0]) | (values == ends[-1])).all():
        return ends
    return np.unique(values)


def _num_fitting(packed: Sequence[Sequence[bytes]]) -> int:
    """Returns the number of models, from the first on, whose answers fit on a page."""
    room = MOST_CHARACTERS
    for place, parts in enumerate(packed):
        room -= 4 * -(-sum(map(len, parts)) // 3)  # as base 64
        if room < 0:
            return place
    return len(packed)
