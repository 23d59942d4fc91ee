"""Cards beside a report: what each expert scored, and the card in its folder."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from elm_jax.disk import files, json_files
from elm_jax.evaluation import estimates, results, row_columns
from elm_jax.evaluation.row_columns import RowColumns
from elm_jax.reporting import expert_cards, marks, report
from elm_jax.runs import card_scores, expert_card
from elm_jax.runs.comparable_rows import ComparableRows

FOLDER = "cards"
# A table of more scores than this has no intervals if only cards need its answers: to
# read these, some thousand a second, would take too long.
_MOST_READ = 10_000
_INTERVALS = (
    "Intervals are 95 % bootstrap intervals over rows, the prompts of a row kept"
    " together, and over trainings where there are several."
)
_NO_INTERVALS = "Without intervals: the answers behind these scores were not read."


@dataclasses.dataclass(frozen=True)
class _Table:
    """The rows of a table of the report, by expert."""

    title: str
    by_expert: Mapping[str, RowColumns]
    base: Mapping[str, float]  # by task
    tasks: Mapping[str, int]  # of each dataset
    has_intervals: bool


class Cards:
    """The cards of all experts that rows name; strategies and the base have none.

    Attributes:
      links: Where each card is, seen from the report.

    Args:
      reported: Has the rows.
      draws: How rows are resampled; None for the usual way.
    """

    def __init__(
        self, reported: ComparableRows, draws: estimates.Draws | None = None
    ) -> None:
        self._reported, self._draws = reported, draws or estimates.Draws()
        self._tables = [*_tables(reported)]
        names = {name for table in self._tables for name in table.by_expert}
        self._files = expert_cards.file_names(sorted(names))
        self.links = {
            name: f"{FOLDER}/{file_name}" for name, file_name in self._files.items()
        }

    def linked(self, page: report.Report) -> report.Report:
        """Returns a report with links to these cards."""
        return dataclasses.replace(page, cards=self.links)

    def write(self, report_path: pathlib.Path) -> list[pathlib.Path]:
        """Writes the cards beside a report; returns their folder, if there are any.

        Raises:
          DataError: A per-example file is altered.
          ConfigError: A file cannot be written.
        """
        folder = report_path.parent / FOLDER
        intervals = [self._intervals(table) for table in self._tables]
        for name, file_name in self._files.items():
            text = expert_cards.render(self._card(name, folder, intervals))
            files.write_text(folder / file_name, text)
        self._remove_others(folder)
        return [folder] if self._files else []

    def _remove_others(self, folder: pathlib.Path) -> None:
        """Removes cards of experts that this report no longer has."""
        for path in sorted(folder.glob(f"*{expert_cards.SUFFIX}")):
            if path.name in self._files.values():
                continue
            with contextlib.suppress(OSError, ValueError):
                if expert_cards.is_card(json_files.read_bytes(path)):
                    path.unlink()

    def _intervals(self, table: _Table) -> dict[str, Mapping[str, results.Interval]]:
        """Returns scores with intervals, of the experts whose answers may be read."""
        if not table.has_intervals:
            return {}
        trainings = {
            name: self._reported.trainings(rows)
            for name, rows in table.by_expert.items()
            if self._have_answers(rows)
        }
        return dict(card_scores.intervals(trainings, self._draws))

    def _card(
        self,
        name: str,
        folder: pathlib.Path,
        intervals: Sequence[Mapping[str, Mapping[str, results.Interval]]],
    ) -> expert_cards.Card:
        tables_and_intervals = zip(self._tables, intervals, strict=True)
        shown = [
            (t, by_expert.get(name))
            for t, by_expert in tables_and_intervals
            if name in t.by_expert
        ]
        rows = shown[0][0].by_expert[name]
        trainings: dict[str, results.ResultRow] = {}
        for table, _ in shown:
            for row in self._trainings_of(table.by_expert[name]):
                trainings[row.expert_fingerprint] = row
        text, address = self._own_card(trainings.values(), folder)
        return expert_cards.Card(
            name=name,
            facts=(
                ("kind", rows[0].kind or "not told"),
                ("base", f"fingerprint {rows[0].base_fingerprint}"),
                ("trainings", "; ".join(map(_training, trainings.values()))),
                ("scored on", f"split {rows[0].split}, protocol {rows[0].protocol}"),
            ),
            scores=tuple(
                _scores(table, table.by_expert[name], expert_intervals)
                for table, expert_intervals in shown
            ),
            folder_card=text,
            own_address=address,
        )

    def _own_card(
        self, trainings: Iterable[results.ResultRow], folder: pathlib.Path
    ) -> tuple[str, str]:
        """Returns the text and address of the first training that has its own card."""
        for row in trainings:
            expert_folder = self._reported.folder(row)
            if expert_folder is not None:
                path = expert_folder / expert_card.FILE_NAME
                try:
                    content = json_files.read_bytes(path)
                except (OSError, ValueError):  # of a former release, or no card at all
                    continue
                return content.decode("utf-8", "replace"), os.path.relpath(path, folder)
        return "", ""

    def _trainings_of(self, rows: RowColumns) -> Iterator[results.ResultRow]:
        """Yields the first row of each training behind an expert's rows."""
        if self._reported.is_of_one_training:
            yield from rows.take(rows.groups("expert_fingerprint").lasts)
        else:
            for row in rows:
                yield from self._reported.behind(row)

    def _have_answers(self, rows: Sequence[results.ResultRow]) -> bool:
        """Returns whether the answers behind rows are on disk."""
        parts = self._reported.by_training(rows)
        paths = {
            path
            for training in parts
            for (path,) in training.distinct("per_example_path")
        }
        parent = self._reported.store.path.parent
        return all(path is not None and (parent / path).is_file() for path in paths)


def _scores(
    table: _Table,
    rows: RowColumns,
    intervals: Mapping[str, results.Interval] | None,
) -> expert_cards.Scores:
    """Returns the scores of one expert.

    Args:
      table: The table that shows its scores, too.
      rows: The expert's.
      intervals: Its scores by dataset, and over all as ""; None if there are none.
    """
    lines = []
    means: list[float] = []
    has_letters = marks.of_data(rows) or marks.of_scores(rows)
    for dataset, dataset_rows in sorted(rows.split("dataset").items()):
        letters = ""
        if has_letters:
            letters = marks.joined(
                marks.of_data(dataset_rows), marks.of_scores(dataset_rows)
            )
        if len(dataset_rows) < table.tasks[dataset]:
            letters = marks.joined(letters, marks.PART)
        means.append(float(np.mean(dataset_rows.coded("value").listed())))
        score = intervals[dataset] if intervals else results.Interval(means[-1])
        counts = dataset_rows.distinct("num_examples")
        count = counts[0][0] if len(counts) == 1 else None
        base = _mean([*map(table.base.get, dataset_rows.coded("task").listed())])
        lines.append((dataset, len(dataset_rows), count, score, base, letters))
    if len(lines) > 1:
        score = results.Interval(float(np.mean(means)))
        is_part = len(rows) < sum(table.tasks.values())
        lines.append(
            (
                "mean",
                len(rows),
                None,
                intervals[""] if intervals else score,
                _mean([line[4] for line in lines]),
                marks.PART if is_part else "",
            )
        )
    notes = [_INTERVALS if intervals else _NO_INTERVALS]
    notes += marks.legend(rows)
    if any(marks.PART in line[5] for line in lines):
        notes.append(marks.PART_LEGEND)
    return expert_cards.Scores(title=table.title, rows=tuple(lines), notes=tuple(notes))


def _tables(reported: ComparableRows) -> Iterator[_Table]:
    shown = reported.shown
    for place, (title, tasks) in enumerate(shown.tables.items()):
        for metric in shown.metrics:
            rows = reported.of(tasks, split=shown.split, metric=metric)
            is_expert = row_columns.are_experts(rows)
            other_rows = rows.take(~is_expert)
            base = {row.task: row.value for row in other_rows if row.role == "base"}
            datasets = [name for _, name in rows.distinct("task", "dataset")]
            # Others may be no means over rows.
            is_main = metric == shown.metrics[0]
            yield _Table(
                f"{title} tasks: {metric}",
                rows.take(is_expert).split("expert"),
                base,
                {name: datasets.count(name) for name in datasets},
                is_main and (place == 0 or int(is_expert.sum()) <= _MOST_READ),
            )


def _training(row: results.ResultRow) -> str:
    seed = "not told" if row.training_seed is None else row.training_seed
    fingerprint = row.expert_fingerprint or "not told"
    return f"seed {seed}, {row.checkpoint_step} steps, fingerprint {fingerprint}"


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(values) else None
