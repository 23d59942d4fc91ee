"""Merges that are tried on the rows that choose, and their scores there."""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import errors, trees
from elm_jax.evaluation import answers, statistics
from elm_jax.merging import affine, task_arithmetic
from elm_jax.merging.method import MergeMethod
from elm_jax.model import precision, scoring, t5
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
    search_rows,
    task_data,
)
from elm_jax.runs.progress import Progress


@dataclasses.dataclass(frozen=True)
class Problem:
    """Merges of some experts, and the rows that they are tried on.

    Attributes:
      method: How experts are merged, but for the coefficients that are searched.
      folders: The experts' folders.
      base: The base of all these experts.
      parts: The rows, by task.
      rows: How they were chosen.
      program: The program that scores.
      source: Where statistics come from, for a method that needs some.
    """

    method: MergeMethod
    folders: Sequence[pathlib.Path]
    base: loaded.Base
    parts: Sequence[search_rows.Part]
    rows: search_rows.Rows
    program: scorer.Scorer
    source: measuring.Source | None

    @classmethod
    def of(
        cls,
        method: MergeMethod,
        folders: Sequence[pathlib.Path],
        base: loaded.Base,
        rows: search_rows.Rows,
        data: task_data.OpenedData,
        source: measuring.Source | None,
    ) -> "Problem":
        """Returns the problem; opens rows."""
        parts = search_rows.open_rows(rows, data)
        program = scorer.Scorer(
            base, data, batch_size=rows.batch_size, where=placement.Placement()
        )
        return cls(method, folders, base, parts, rows, program, source)

    def columns(self, method: MergeMethod) -> dict[statistics.Key, statistics.Column]:
        """Returns the score of each row by a merge, in percent, by task."""
        expert = merged_params.of_folders(
            method, self.folders, self.base, name="tried", source=self.source
        )
        params = self.program.place(self.base.with_expert(expert))
        columns = {}
        for part in self.parts:
            scored = self.program.score(params, expert.adapter, part.dataset, part.rows)
            name = search_rows.metric(part.dataset)
            arrays = scored.per_example
            columns[part.key] = statistics.Column(
                np.asarray(arrays["example_ids"]), np.asarray(arrays[name], float)
            )
        return columns

    def score(self, method: MergeMethod) -> float:
        """Returns the mean score of a merge over datasets, in percent."""
        return statistics.mean(self.columns(method))

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
        self, objective: str
    ) -> Callable[[Mapping[str, Any]], tuple[float, dict[str, Any]]]:
        """Returns a mean over datasets, and its gradient, as a function of weights.

        Args:
          objective: `loss`, minus the log-probability of the right answer among the
            choices, or `entropy`, of the distribution over the choices; in nats. Of
            choices of one text the first alone counts. No label is read for the
            entropy.

        Raises:
          ConfigError: A task has no answer choices.
        """
        for part in self.parts:
            if not part.dataset.has_choices:
                raise errors.ConfigError(
                    found=f"a search by {objective} on {part.dataset.name}, whose"
                    " answers are written freely",
                    expected="tasks with answer choices",
                    do="Leave the task out, or take a search by scores",
                )
        merged, spec, _ = self._merged
        hashable: Any = bases.build_model(self.base.config, spec)
        slope = _make_slope_fn(hashable, objective)
        whole = dict(self.base.params)
        if (
            self.base.config.base_dtype
        ):  # on the host: devices need not hold it as float
            whole = precision.in_compute_dtype(self.base.config, whole)
        whole = jax.device_put(whole)
        batches = [*self._batches(objective)]

        def value_and_slope(
            weights: Mapping[str, Any],
        ) -> tuple[float, dict[str, Any]]:
            arrays = {n: jnp.asarray(w, jnp.float32) for n, w in weights.items()}
            value, slopes = 0.0, {n: np.zeros(w.shape) for n, w in arrays.items()}
            for share, batch in batches:
                batch_value, gradient = slope(arrays, merged, whole, *batch)
                value += share * float(batch_value)
                for name, leaf in gradient.items():
                    slopes[name] += share * np.float64(leaf)
            return value, slopes

        return value_and_slope

    def _batches(self, objective: str) -> list[tuple[float, tuple[Any, ...]]]:
        """Returns batches, each with the share of a row in the mean over datasets."""
        batches = []
        tasks_of = collections.Counter(part.key[0] for part in self.parts)
        for part in self.parts:
            share = 1.0 / (len(tasks_of) * tasks_of[part.key[0]] * len(part.rows))
            examples = [part.dataset[row] for row in part.rows]
            size = self.rows.batch_size
            for rows, arrays in measured_sums.choice_batches(examples, size):
                inputs, choices, mask, is_row = arrays
                right = np.zeros(mask.shape, np.float32)
                for place, example in enumerate(rows):
                    firsts = answers.firsts(example.choices_text)
                    answer = firsts[example.label] if objective == "loss" else 0
                    right[place, answer] = 1.0
                batches.append(
                    (share, (inputs, choices, mask, right * is_row[:, None]))
                )
        return batches


@functools.lru_cache(maxsize=8)  # searches among experts of one kind compile once
def _make_slope_fn(model: t5.T5, objective: str) -> Any:
    """Returns the compiled sum over rows of a batch, and its gradient by weights."""
    score = scoring.make_score_fn(model)

    def total(
        weights: Any,
        merged: affine.MergedFn,
        start: Any,
        inputs: Any,
        choices: Any,
        mask: Any,
        right: Any,
    ) -> Any:
        params = trees.replace(start, merged(weights))
        scores = jnp.where(mask, score(params, inputs, choices, mask), -1e9)
        log_p = jax.nn.log_softmax(scores)
        if objective == "loss":
            return -jnp.sum(right * log_p)
        is_row = jnp.sum(right, axis=1, keepdims=True)
        return -jnp.sum(is_row * jnp.where(mask, jnp.exp(log_p) * log_p, 0.0))

    return jax.jit(jax.value_and_grad(total))
