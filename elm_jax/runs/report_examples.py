"""Pages of examples beside a report: what models of its main table answered."""

import dataclasses
import pathlib
import posixpath
import urllib.parse
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from elm_jax import errors
from elm_jax.data import cache, token_store
from elm_jax.disk import files
from elm_jax.evaluation import results
from elm_jax.reporting import example_pages, report
from elm_jax.runs import cell_examples
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.report_way import Way
from elm_jax.runs.report_ways import Ways

FOLDER = "examples"


class Pages:
    """The pages of all tasks whose tokens are at hand.

    Attributes:
      links: Where a report finds answers, by (label, task).
      note: What is shown, in a few words; "" for nothing.

    Args:
      ways: Whose answers are shown: those of which rows tell.
      reported: Has the rows of their trainings.
      cache_dir: Folder of token caches; what is not there is not built.
      max_examples: Examples shown of each task; None for all.

    Raises:
      DataError: The arrays of a token cache are damaged.
    """

    def __init__(
        self,
        ways: Ways,
        reported: ComparableRows,
        *,
        cache_dir: pathlib.Path,
        max_examples: int | None,
    ) -> None:
        self._reported = reported
        self._max_examples = max_examples
        self._columns = ways.datasets  # of the main table
        self._ways: dict[str, list[tuple[Way, Sequence[results.ResultRow]]]] = {}
        self._datasets: dict[str, token_store.TokenizedDataset] = {}
        tasks = {row.task: row.dataset for row in ways.rows}
        scored = {(row.task, row.expert_fingerprint): row for row in ways.singles}
        for way in ways.all:
            for row in way.rows:
                # Views are rows of single experts under another name.
                expert_row = (
                    row if way.role else scored[row.task, row.expert_fingerprint]
                )
                behind = reported.behind(expert_row)
                self._ways.setdefault(row.task, []).append((way, behind))
        for task in sorted(self._ways):
            dataset = _find(cache_dir, self._ways[task][0][1][0])
            if dataset is not None:
                self._datasets[task] = dataset
        self._tasks_of: dict[str, list[str]] = {}
        for task in self._datasets:
            self._tasks_of.setdefault(tasks[task], []).append(task)
        self.links = example_pages.links(
            FOLDER,
            [
                (task, [way.label for way, _ in self._ways[task]])
                for task in self._datasets
            ],
        )
        num_lacking = len(tasks) - len(self._datasets)
        self.note = f"of {len(self._datasets)} tasks" if self._datasets else ""
        if self.note and num_lacking:
            self.note += f"; the tokens of {num_lacking} others are not in {cache_dir}"
        if self.note and max_examples:
            self.note = f"the first {max_examples} rows {self.note}"

    @property
    def names(self) -> Collection[str]:
        """Names of their files."""
        return {*map(example_pages.file_name, self._datasets)}

    def linked(self, page: report.Report) -> report.Report:
        """Returns a report with links to these pages."""
        if not self.links:
            return page
        details = (*page.details, ("examples", self.note))
        headline = page.headline
        if headline is not None:
            headline = dataclasses.replace(headline, links=self._of_datasets())
        return dataclasses.replace(
            page, headline=headline, examples=self.links, details=details
        )

    def _of_datasets(self) -> dict[tuple[str, int], str]:
        """Returns links to the first task of each dataset that has a page."""
        return {
            (way.label, place): self.links[way.label, tasks[0]]
            for place, name in enumerate(self._columns)
            if (tasks := self._tasks_of.get(name))
            for way, _ in self._ways[tasks[0]]
        }

    def write(self, report_path: pathlib.Path) -> list[pathlib.Path]:
        """Writes the pages beside a report; returns their folder, if there are any.

        Raises:
          DataError: A per-example file is missing or altered.
          ConfigError: A file cannot be written.
        """
        folder = report_path.parent / FOLDER
        for task in self._datasets:
            text = example_pages.render(self._page(task, report_path.name))
            files.write_text(folder / example_pages.file_name(task), text)
        return [folder] if self._datasets else []

    def _page(self, task: str, report_name: str) -> example_pages.Page:
        dataset = self._datasets[task]
        ways = self._ways[task]
        first_row = ways[0][1][0]
        answers = [self._answers(behind[0], dataset) for _, behind in ways]
        ids = sorted(set().union(*answers))
        places = _places(dataset)
        return example_pages.Page(
            task=task,
            dataset=first_row.dataset,
            split=first_row.split,
            metric=first_row.metric,
            num_rows=len(ids),
            ways=tuple(_way(way, behind) for way, behind in ways),
            examples=tuple(
                _example(
                    dataset[places[number]],
                    [way_answers.get(number) for way_answers in answers],
                )
                for number in ids[: self._max_examples]
            ),
            siblings=tuple(self._tasks_of[first_row.dataset]),
            report=posixpath.join("..", urllib.parse.quote(report_name)),
        )

    def _answers(
        self, row: results.ResultRow, dataset: token_store.TokenizedDataset
    ) -> dict[int, example_pages.Answer]:
        """Returns the answers of a row by id, of all its examples."""
        arrays = self._reported.store.per_example(row)
        try:
            return _checked_answers(arrays, row.metric, dataset)
        except (KeyError, IndexError, ValueError) as error:
            raise errors.DataError(
                found=f"{row.per_example_path} with answers of {row.expert} to other"
                f" examples than those of {row.task}: {error}",
                expected="answers to these, as elm_eval writes them",
                do='Score it again, or set cache_dir = ""',
            ) from error


def _checked_answers(
    arrays: Mapping[str, np.ndarray],
    metric: str,
    dataset: token_store.TokenizedDataset,
) -> dict[int, example_pages.Answer]:
    """Returns answers by id; raises ValueError, KeyError or IndexError for misfits."""
    scores = arrays.get(metric)
    places = _places(dataset)
    num_choices = np.diff(dataset.columns.choices_of)
    checked = {}
    for i, (number, answer) in enumerate(
        zip(arrays["example_ids"], cell_examples.answers(arrays), strict=True)
    ):
        has_choices = answer.chosen >= 0
        expected = num_choices[places[int(number)]] if has_choices else 0
        if len(answer.log_probabilities) != expected or answer.chosen >= max(
            expected, 1
        ):
            raise ValueError(f"example {number} has {expected} choices")
        checked[int(number)] = example_pages.Answer(
            None if scores is None else float(scores[i]),
            answer.chosen,
            answer.log_probabilities,
            answer.written,
            answer.is_cut,
        )
    return checked


def _places(dataset: token_store.TokenizedDataset) -> dict[int, int]:
    return {int(number): i for i, number in enumerate(dataset.columns.example_ids)}


def _find(
    cache_dir: pathlib.Path, row: results.ResultRow
) -> token_store.TokenizedDataset | None:
    """Returns the tokens and texts that a row was scored on, if they are at hand."""
    if not row.data_fingerprint:
        return None
    return cache.find(cache_dir, row.task, row.split, fingerprint=row.data_fingerprint)


def _way(way: Way, behind: Sequence[results.ResultRow]) -> example_pages.Way:
    """Returns whose answers are shown: of several trainings, those of the first."""
    note = way.note
    if len(behind) > 1:
        seed = behind[0].training_seed
        note += f"; the training with seed {seed}, of {len(behind)}"
    return example_pages.Way(way.label, behind[0].value, note)


def _example(
    example: token_store.Example, answers: Sequence[example_pages.Answer | None]
) -> example_pages.Example:
    return example_pages.Example(
        example_id=example.example_id,
        inputs=example.inputs_text,
        num_read=len(example.inputs) if example.inputs_cut else None,
        target=example.targets_text,
        choices=example.choices_text,
        label=example.label,
        answers=tuple(answers),
    )
