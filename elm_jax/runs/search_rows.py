"""The rows by which coefficients of a merge are chosen, and what merges get on them."""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from elm_jax import errors, fields
from elm_jax.data import tasks as task_registry
from elm_jax.data import token_store
from elm_jax.evaluation import answers, metrics, statistics
from elm_jax.runs import scorer, search_splits, task_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows by which coefficients are chosen; none of them is reported.

    Attributes:
      tasks: Names or patterns of tasks and mixtures. Each dataset counts equally, and
        each of its tasks in it.
      split: Whose rows choose.
      reported_split: Whose rows are to be reported; each task must have it. Where there
        is only one split, it may be the same with `cross_fit`.
      cross_fit: Whether a sweep also tells the score of choosing: chosen on one half of
        the rows and scored on the other, and the other way round. The merge itself is
        then chosen by all of these rows, so that its own score on them counts luck.
      num_rows: Rows of each task at most, drawn by the seed; 0 for all.
      batch_size: Rows at once.
      random_seed: The seed by which rows are chosen.
    """

    tasks: str | tuple[str, ...] = ()
    split: str = "validation"
    reported_split: str = "test"
    cross_fit: bool = False
    num_rows: fields.CountOrNone = 0
    batch_size: fields.Count = 64
    random_seed: fields.Seed = 42

    def __post_init__(self) -> None:
        """Raises ConfigError for rows that are reported, too."""
        fields.check(self)
        if self.split == self.reported_split and not self.cross_fit:
            raise errors.ConfigError(
                found=f"coefficients that are chosen on {self.split}, the split that is"
                " reported",
                expected="rows of another split: luck is chosen, too",
                do="Choose on validation rows, or set cross_fit = True where there is"
                " one split only",
            )

    def recipe(self) -> dict[str, Any]:
        """Returns what decides the rows, as JSON values."""
        recipe = dataclasses.asdict(self)
        del recipe["batch_size"]
        return recipe


class Part(NamedTuple):
    """A task's rows."""

    dataset: token_store.TokenizedDataset
    rows: tuple[int, ...]

    @property
    def key(self) -> statistics.Key:
        """Dataset and task."""
        name = self.dataset.name
        return getattr(task_registry.registry.task(name), "dataset", name), name

    @property
    def has_equal_choices(self) -> bool:
        """Whether choices of one of its rows are one answer."""
        texts = (self.dataset[row].choices_text for row in self.rows)
        return any(map(answers.are_equal_among, texts))

    @property
    def as_json(self) -> dict[str, Any]:
        """The settings that identify the rows, as JSON values."""
        digest = hashlib.sha256(json.dumps(list(self.rows)).encode()).hexdigest()
        return {
            "tokens": self.dataset.fingerprint,
            "count": len(self.rows),
            "rows": digest[:16],
            "metric": metric(self.dataset),
        }


def open_rows(rows: Rows, data: task_data.OpenedData) -> list[Part]:
    """Returns the rows that choose, by task.

    Raises:
      ConfigError: As `names`; or a task has no metric of single rows.
      DataError: A task has no such rows.
    """
    parts = []
    for name in names(rows, data.data_options):
        dataset = data.open(name, rows.split)
        metric(dataset)
        draw = np.random.default_rng(rows.random_seed).permutation(len(dataset))
        chosen = np.sort(draw[: rows.num_rows or None])
        if not len(chosen):
            raise errors.DataError(
                found=f"no rows in {name} {rows.split}",
                expected="one or more rows that choose",
                do="Name another split, or leave the task out",
            )
        parts.append(Part(dataset, tuple(chosen.tolist())))
    return parts


def names(rows: Rows, options: task_registry.DataOptions) -> list[str]:
    """Returns the names of the tasks whose rows choose; reads no rows.

    Raises:
      ConfigError: No tasks are named, one is unknown or lacks a split, or its rows
        that choose may be among those that are reported.
    """
    task_names = task_registry.registry.expand(rows.tasks) if rows.tasks else []
    if not task_names:
        raise errors.ConfigError(
            found="a search without tasks",
            expected="tasks whose rows choose coefficients",
            do="Name them in search_rows.Rows.tasks",
        )
    for name in task_names:
        search_splits.check_there(name, (rows.split, rows.reported_split))
        if not rows.cross_fit:
            search_splits.check_apart(name, rows.split, rows.reported_split, options)
    return task_names


def are_cached(rows: Rows, data: task_data.OpenedData) -> bool:
    """Returns whether all rows that choose can be read without building anything."""
    task_names = names(rows, data.data_options)
    return all(data.open_if_cached(name, rows.split) is not None for name in task_names)


def metric(dataset: token_store.TokenizedDataset) -> str:
    """Returns the name of the score of a task's rows, as tables show it.

    Raises:
      ConfigError: A task without answer choices has metrics of whole corpora only.
    """
    if dataset.has_choices:
        return "accuracy"
    metric_names = scorer.task_metrics(dataset.name)
    for task_metric in map(metrics.get, metric_names):
        if task_metric.example_fn is not None:
            return task_metric.keys[-1]
    raise errors.ConfigError(
        found=f"a search on {dataset.name}, whose metrics are"
        f" {', '.join(metric_names)}",
        expected="a metric of single rows, such as rouge or accuracy",
        do="Leave the task out, or register it with such a metric",
    )
