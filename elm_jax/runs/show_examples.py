"""elm_report: the examples behind a score, as they were read and answered."""

import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from elm_jax import errors, fields, paths
from elm_jax.data import tasks as task_registry
from elm_jax.data import token_store
from elm_jax.disk import files
from elm_jax.evaluation import metrics, result_store, results
from elm_jax.reporting import terminal, text
from elm_jax.runs import cell_examples, report_rows, task_data
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowExamples(Run):
    """Shows inputs, choices with log-probabilities, predictions and targets of cells.

    Texts come from the token caches, answers from the per-example files beside the
    result rows; a cache whose content is not what a row was scored on is refused.

    Attributes:
      tasks: Names or patterns of tasks and mixtures.
      data: Vocabulary, lengths and folders of the evaluation.
      experts: Names as the rows have them, strategies such as `base` among them; `*`
        stands for any text.
      split: The split that was scored.
      which: `right`, full marks; `wrong`, less; or `all`.
      max_examples: Examples of each expert and task, by their id; 0 for all.
      results_path: Result rows.
      output_path: JSON lines of the same, an example each; "" writes none.
    """

    tasks: str | tuple[str, ...]
    data: task_data.TaskData
    experts: tuple[str, ...] = ("*",)
    split: str = "test"
    which: Literal["all", "right", "wrong"] = "all"
    max_examples: fields.CountOrNone = 5
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"
    output_path: paths.OptionalPath = ""

    def plan(self) -> Plan:
        """Returns what would be read and written."""
        return {
            "rows": self.path(self.results_path),
            "tasks": ", ".join(task_registry.registry.expand(self.tasks)),
            "experts": ", ".join(self.experts),
            "files": self.path(self.output_path) if self.output_path else "none",
        }

    def run(self) -> None:
        """Prints the examples of every cell that is asked for."""
        store = result_store.ResultStore(self.path(self.results_path))
        data = self.data.opened(self.place)
        all_shown: list[Example] = []
        for row in _with_data(self._cells(store)):
            dataset = data.open(row.task, row.split)
            examples = self._examples(row, store.per_example(row), dataset, data)
            for line in _heading(row, examples, self.which):
                terminal.show_line(line)
            shown = examples[: self.max_examples or None]
            for example in shown:
                for line in _lines(example):
                    terminal.show_line(line)
            all_shown += shown
        if self.output_path:
            lines = [json.dumps(e._asdict(), ensure_ascii=False) for e in all_shown]
            target = self.path(self.output_path)
            files.write_text(target, "".join(f"{line}\n" for line in lines))
            print(target)  # noqa: T201

    def _cells(self, store: result_store.ResultStore) -> list[results.ResultRow]:
        """Returns one row for each cell that is asked for, of its main metric."""
        tasks = task_registry.registry.expand(self.tasks)
        cells: dict[tuple[Any, ...], results.ResultRow] = {}
        for row in store.rows():
            is_named = any(_is_like(row.expert, pattern) for pattern in self.experts)
            is_asked = row.task in tasks and row.split == self.split and is_named
            if is_asked and row.metric in metrics.MAIN_KEYS:
                cells.setdefault(row.key(""), row)
        if cells:
            return list(cells.values())
        task_rows = [row for row in store.rows() if row.task in tasks]
        listed = report_rows.listed
        raise errors.DataError(
            found=f"no rows of experts {listed(self.experts)} on"
            f" {listed(tasks)} in split {self.split!r} in {store.path}",
            expected=f"some; on these tasks it has rows of experts"
            f" {listed({row.expert for row in task_rows})}, in split"
            f" {listed({row.split for row in task_rows})}",
            do="Correct experts, tasks or split, or score them with elm_eval",
        )

    def _examples(
        self,
        row: results.ResultRow,
        arrays: Mapping[str, np.ndarray],
        dataset: token_store.TokenizedDataset,
        data: task_data.OpenedData,
    ) -> list["Example"]:
        """Returns the examples of a cell that are asked for, by id."""
        _check_same(row, dataset)
        scores = arrays.get(row.metric)
        if scores is None and self.which != "all":
            raise errors.DataError(
                found=f"which = {self.which!r} with {row.metric} of {row.task}",
                expected="a metric that each example has a score by",
                do='Set which = "all"',
            )
        places = {int(n): i for i, n in enumerate(dataset.columns.example_ids)}
        answers = list(cell_examples.answers(arrays))
        examples = []
        for i in np.argsort(arrays["example_ids"], kind="stable").tolist():
            score = None if scores is None else float(scores[i])
            is_right = score is not None and score >= 100.0
            if self.which != "all" and is_right != (self.which == "right"):
                continue
            example = dataset[places[int(arrays["example_ids"][i])]]
            inputs = example.inputs_text
            if example.inputs_cut:
                inputs = data.vocabulary.decode(example.inputs.tolist())
            examples.append(_example(row, example, inputs, answers[i], score))
        return examples


class Example(NamedTuple):
    """An example and its answer; the fields of a line of JSON.

    Attributes:
      expert: Whose answer it is, as result rows name it.
      expert_fingerprint: The fingerprint of that expert's training.
      base_fingerprint: The fingerprint of the base.
      protocol: How it was scored.
      seed: The seed of everything random in scoring.
      task: Full name of the task.
      split: The split that the example is of.
      example_id: Place of the row in its source.
      metric: The metric of the score.
      score: Percent, or None where the metric has none for single examples.
      inputs: The prompt; where it was cut, what was left of it.
      inputs_cut: Whether it was cut.
      target: What is right.
      prediction: What was chosen or written.
      prediction_cut: Whether what was written had no end at the greatest length.
      choices: Texts of the choices; empty where answers are written.
      log_probabilities: One for each choice, in nats; per token if that was asked for.
    """

    expert: str
    expert_fingerprint: str
    base_fingerprint: str
    protocol: str
    seed: int
    task: str
    split: str
    example_id: int
    metric: str
    score: float | None
    inputs: str
    inputs_cut: bool
    target: str
    prediction: str
    prediction_cut: bool
    choices: tuple[str, ...]
    log_probabilities: tuple[float, ...]


def _example(
    row: results.ResultRow,
    example: token_store.Example,
    inputs: str,
    answer: cell_examples.Answer,
    score: float | None,
) -> Example:
    is_ranked = answer.chosen >= 0
    return Example(
        expert=row.expert,
        expert_fingerprint=row.expert_fingerprint,
        base_fingerprint=row.base_fingerprint,
        protocol=row.protocol,
        seed=row.seed,
        task=row.task,
        split=row.split,
        example_id=example.example_id,
        metric=row.metric,
        score=score,
        inputs=inputs,
        inputs_cut=example.inputs_cut,
        target=example.targets_text,
        prediction=example.choices_text[answer.chosen] if is_ranked else answer.written,
        prediction_cut=answer.is_cut,
        choices=example.choices_text,
        log_probabilities=answer.log_probabilities,
    )


def _with_data(rows: Sequence[results.ResultRow]) -> list[results.ResultRow]:
    """Returns the rows that record their data; prints a line for each other row.

    Raises:
      DataError: None does.
    """
    rows_with_data = [row for row in rows if row.data_fingerprint is not None]
    silent = [row for row in rows if row.data_fingerprint is None]
    why = "of an earlier version, which does not tell what tokens and texts it was"
    for row in silent if rows_with_data else ():
        cell_name = f"{row.expert} on {row.task} {row.split}"
        terminal.show_line(
            text.plain(f"left out: a row of {cell_name} {why} scored on")
        )
    if silent and not rows_with_data:
        row = silent[0]
        raise errors.DataError(
            found=f"a row of {row.expert} on {row.task} {row.split} {why} scored on",
            expected="rows with data_fingerprint",
            do="Score it again into another result file (results_path)",
        )
    return rows_with_data


def _check_same(row: results.ResultRow, dataset: token_store.TokenizedDataset) -> None:
    """Raises DataError unless a row was scored on the content of a dataset."""
    split_name = f"{row.task} {row.split}"
    if row.data_fingerprint != dataset.fingerprint:
        raise errors.DataError(
            found=f"tokens and texts {dataset.fingerprint} of {split_name}, and a row"
            f" of {row.expert} that was scored on {row.data_fingerprint}",
            expected="the same rows, template, vocabulary and lengths as then",
            do="Give TaskData the values that the evaluation had, or score again",
        )


def _is_like(name: str, pattern: str) -> bool:
    """Returns whether a name fits a pattern in which only `*` stands for others.

    >>> _is_like("x[v2]", "x[v2]"), _is_like("xv", "x[v2]"), _is_like("base", "b*")
    (True, False, True)
    """
    literal = pattern.replace("[", "[[]").replace("?", "[?]")
    return fnmatch.fnmatchcase(name, literal)


def _heading(
    row: results.ResultRow, examples: Sequence[Example], kind: str
) -> Iterator[str]:
    expert_name = f"{row.expert} {row.expert_fingerprint}".strip()
    yield ""
    yield text.plain(
        f"{expert_name} on {row.task} {row.split}: {row.metric} {row.value:.1f} over"
        f" {row.num_examples} examples; {kind}: {len(examples)}"
    )


def _lines(example: Example) -> Iterator[str]:
    """Yields the lines of one example in the terminal."""
    score = "" if example.score is None else f": {example.metric} {example.score:.1f}"
    yield ""
    yield f"  example {example.example_id}{score}"
    yield from _block("inputs, cut" if example.inputs_cut else "inputs", example.inputs)
    yield from _block("target", example.target)
    title = "predicted, cut" if example.prediction_cut else "predicted"
    yield from _block(title, example.prediction)
    for choice, nats in zip(example.choices, example.log_probabilities, strict=True):
        yield from _block(f"{nats:.4f}", choice)


def _block(title: str, content: str) -> Iterator[str]:
    """Yields a text beside its title; further lines are indented as far."""
    first, *more = content.split("\n")
    yield f"  {title:>14}  {text.plain(first)}"
    for line in more:
        yield f"  {'':>14}  {text.plain(line)}"
