"""The rows by which coefficients of a merge are chosen, and what merges get on them."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import errors, fields, trees
from elm_jax.data import tasks as task_registry
from elm_jax.data import token_store
from elm_jax.evaluation import metrics, statistics
from elm_jax.merging import affine, task_arithmetic
from elm_jax.merging.method import MergeMethod
from elm_jax.model import scoring
from elm_jax.peft import effects
from elm_jax.runs import (
    bases,
    loaded,
    measured_sums,
    measuring,
    merged_params,
    merged_ranks,
    placement,
    scorer,
    task_data,
)
from elm_jax.runs.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows by which coefficients are chosen, which are not those that are reported.

    Attributes:
      tasks: Names or patterns of tasks and mixtures; each counts equally.
      split: Whose rows choose.
      reported_split: Whose rows are to be reported. Where there is only one split, it
        may be the same with `cross_fit`.
      cross_fit: Whether the score of choosing is told as well: chosen on one half of
        the rows and scored on the other, and the other way round. The merge itself is
        then chosen by all of these rows, so that its own score on them counts luck.
      num_rows: Of each task at most, drawn by the seed; 0 for all.
      batch_size: Rows at once.
      random_seed: Of the choice of rows.
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
        told = dataclasses.asdict(self)
        del told["batch_size"]
        return told


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
    def told(self) -> dict[str, Any]:
        """What tells the rows, as JSON values."""
        digest = hashlib.sha256(json.dumps(list(self.rows)).encode()).hexdigest()
        return {
            "tokens": self.dataset.fingerprint,
            "count": len(self.rows),
            "rows": digest[:16],
        }


def open_rows(rows: Rows, data: task_data.OpenedData) -> list[Part]:
    """Returns the rows that choose, by task.

    Raises:
      ConfigError: No tasks are named, or one is unknown.
      DataError: A task has no such rows.
    """
    names = task_registry.registry.expand(rows.tasks) if rows.tasks else []
    if not names:
        raise errors.ConfigError(
            found="a search without tasks",
            expected="tasks whose rows choose coefficients",
            do="Name them in search_rows.Rows.tasks",
        )
    found = []
    for name in names:
        dataset = data.open(name, rows.split)
        draw = np.random.default_rng(rows.random_seed).permutation(len(dataset))
        chosen = np.sort(draw[: rows.num_rows or None])
        if not len(chosen):
            raise errors.DataError(
                found=f"no rows in {name} {rows.split}",
                expected="one or more rows that choose",
                do="Name another split, or leave the task out",
            )
        found.append(Part(dataset, tuple(chosen.tolist())))
    return found


@dataclasses.dataclass(frozen=True)
class Problem:
    """Merges of some experts, and the rows that they are tried on.

    Attributes:
      method: How experts are merged, but for the coefficients that are searched.
      folders: Of the experts.
      base: Theirs.
      parts: The rows, by task.
      rows: How they were chosen.
      program: What scores.
      source: Where statistics come from, for a method that needs some.
    """

    method: MergeMethod
    folders: Sequence[pathlib.Path]
    base: loaded.Base
    parts: Sequence[Part]
    rows: Rows
    program: scorer.Scorer
    source: measuring.Source | None

    @classmethod
    def of(
        cls,
        method: MergeMethod,
        folders: Sequence[pathlib.Path],
        base: loaded.Base,
        rows: Rows,
        data: task_data.OpenedData,
        source: measuring.Source | None,
    ) -> "Problem":
        """Returns the problem; opens rows."""
        parts = open_rows(rows, data)
        program = scorer.Scorer(
            base, data, batch_size=rows.batch_size, where=placement.Placement()
        )
        return cls(method, folders, base, parts, rows, program, source)

    def columns(self, method: MergeMethod) -> dict[statistics.Key, statistics.Column]:
        """Returns the score of each row by a merge, in percent, by task."""
        made = merged_params.of_folders(
            method, self.folders, self.base, name="tried", source=self.source
        )
        params = self.program.place(self.base.with_expert(made))
        found = {}
        for part in self.parts:
            scored = self.program.score(params, made.adapter, part.dataset, part.rows)
            name = _metric(part.dataset)
            arrays = scored.per_example
            found[part.key] = statistics.Column(
                np.asarray(arrays["example_ids"]), np.asarray(arrays[name], float)
            )
        return found

    def score(self, method: MergeMethod) -> float:
        """Returns the mean score of a merge over tasks, in percent."""
        return mean(self.columns(method))

    def progress(self, total: int) -> Progress:
        """Returns what tells how many merges have been tried."""
        return Progress("search", total=total, unit="merges")

    @functools.cached_property
    def _merged(self) -> tuple[affine.MergedFn, Any, list[str]]:
        parts = [loaded.Expert.load(folder) for folder in self.folders]
        for part in parts:
            self.base.check_fits(part)
        parts = merged_ranks.in_one_spec(task_arithmetic.TaskArithmetic(), parts)
        params = [part.params for part in parts]
        spec, beside = parts[0].adapter, {}
        start = merged_params.start_of(parts[0], self.base)
        if spec is not None:
            beside = effects.beside(params[0])
            if beside:
                spec = effects.repeated(spec, len(parts))
        groups = affine.layer_groups(params[0])
        return affine.make_merged_fn(params, start, beside), spec, groups

    @property
    def layer_groups(self) -> list[str]:
        """The groups of all layers of the experts."""
        return self._merged[2]

    def slope_fn(
        self, of: str
    ) -> Callable[[Mapping[str, Any]], tuple[float, dict[str, Any]]]:
        """Returns a mean over tasks, and its gradient, as a function of weights.

        Args:
          of: `loss`, minus the log-probability of the right answer among the choices,
            or `entropy`, of the distribution over the choices; in nats. No label is
            read for the entropy.

        Raises:
          ConfigError: A task has no answer choices.
        """
        for part in self.parts:
            if not part.dataset.has_choices:
                raise errors.ConfigError(
                    found=f"a search by {of} on {part.dataset.name}, whose answers are"
                    " written freely",
                    expected="tasks with answer choices",
                    do="Leave the task out, or take a search by scores",
                )
        merged, spec, _ = self._merged
        score = scoring.make_score_fn(bases.build_model(self.base.config, spec))

        def total(
            weights: Any, start: Any, inputs: Any, choices: Any, mask: Any, right: Any
        ) -> Any:
            params = trees.replace(start, merged(weights))
            scores = jnp.where(mask, score(params, inputs, choices, mask), -1e9)
            log_p = jax.nn.log_softmax(scores)
            if of == "loss":
                return -jnp.sum(right * log_p)
            is_row = jnp.sum(right, axis=1, keepdims=True)
            return -jnp.sum(is_row * jnp.where(mask, jnp.exp(log_p) * log_p, 0.0))

        slope = jax.jit(jax.value_and_grad(total))
        whole = jax.tree.map(jnp.asarray, dict(self.base.params))
        batches = [*self._batches(of)]

        def value_and_slope(
            weights: Mapping[str, Any],
        ) -> tuple[float, dict[str, Any]]:
            given = {n: jnp.asarray(w, jnp.float32) for n, w in weights.items()}
            value, slopes = 0.0, {n: np.zeros(w.shape) for n, w in given.items()}
            for share, batch in batches:
                own, gradient = slope(given, whole, *batch)
                value += share * float(own)
                for name, leaf in gradient.items():
                    slopes[name] += share * np.float64(leaf)
            return value, slopes

        return value_and_slope

    def _batches(self, of: str) -> list[tuple[float, tuple[Any, ...]]]:
        """Returns batches, each with the share of a row in the mean over tasks."""
        found = []
        for part in self.parts:
            share = 1.0 / (len(self.parts) * len(part.rows))
            examples = [part.dataset[row] for row in part.rows]
            size = self.rows.batch_size
            for rows, arrays in measured_sums.choice_batches(examples, size):
                inputs, choices, mask, is_row = arrays
                right = np.zeros(mask.shape, np.float32)
                for place, each in enumerate(rows):
                    right[place, each.label if of == "loss" else 0] = 1.0
                found.append((share, (inputs, choices, mask, right * is_row[:, None])))
        return found


def mean(columns: Mapping[statistics.Key, statistics.Column]) -> float:
    """Returns the mean over tasks of the mean over rows."""
    return float(np.mean([column.values.mean() for column in columns.values()]))


def _metric(dataset: token_store.TokenizedDataset) -> str:
    if dataset.has_choices:
        return "accuracy"
    name, *_ = scorer.task_metrics(dataset.name)
    example = metrics.get(name).per_example(["a"], ["a"])
    return next(iter(example))
