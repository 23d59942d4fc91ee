"""Cards beside a report: of each expert what it scored, and its own card."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from elm_jax.disk import files, json_files
from elm_jax.evaluation import estimates, results, statistics
from elm_jax.reporting import expert_cards, marks, report
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.training import card

FOLDER = "cards"
# Of tables whose answers nobody else reads, those of more scores are not read: at some
# thousand a second a report would wait for them.
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
    by_expert: Mapping[str, Sequence[results.ResultRow]]
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
        self.links = {name: f"{FOLDER}/{own}" for name, own in self._files.items()}

    def linked(self, one: report.Report) -> report.Report:
        """Returns a report with links to these cards."""
        return dataclasses.replace(one, cards=self.links)

    def write(self, report_path: pathlib.Path) -> list[pathlib.Path]:
        """Writes the cards beside a report; returns their folder, if there are any.

        Raises:
          DataError: A per-example file is altered.
          ConfigError: A file cannot be written.
        """
        folder = report_path.parent / FOLDER
        for name, own in self._files.items():
            text = expert_cards.render(self._card(name, folder))
            files.write_text(folder / own, text)
        return [folder] if self._files else []

    def _card(self, name: str, folder: pathlib.Path) -> expert_cards.Card:
        own = [t for t in self._tables if name in t.by_expert]
        rows = [row for table in own for row in table.by_expert[name]]
        trainings = {
            one.expert_fingerprint: one
            for row in rows
            for one in self._reported.behind(row)
        }
        text, address = self._own_card(trainings.values(), folder)
        return expert_cards.Card(
            name=name,
            facts=(
                ("kind", rows[0].kind or "not told"),
                ("base", f"fingerprint {rows[0].base_fingerprint}"),
                ("trainings", "; ".join(map(_training, trainings.values()))),
                ("scored on", f"split {rows[0].split}, protocol {rows[0].protocol}"),
            ),
            scores=tuple(self._scores(name, table) for table in own),
            own=text,
            own_address=address,
        )

    def _own_card(
        self, trainings: Iterable[results.ResultRow], folder: pathlib.Path
    ) -> tuple[str, str]:
        """Returns the text and address of the first training that has its own card."""
        for row in trainings:
            found = self._reported.folder(row)
            if found is not None:
                path = found / card.FILE_NAME
                try:
                    content = json_files.read_bytes(path)
                except (OSError, ValueError):  # of a former release, or no card at all
                    continue
                return content.decode("utf-8", "replace"), os.path.relpath(path, folder)
        return "", ""

    def _scores(self, name: str, table: _Table) -> expert_cards.Scores:
        rows = table.by_expert[name]
        estimate = None
        if table.has_intervals and self._have_answers(rows):
            trainings = [*map(narrow, self._reported.trainings(rows))]
            estimate = estimates.estimate(trainings, self._draws, who=name)
        lines = []
        means: list[float] = []
        for dataset in sorted({row.dataset for row in rows}):
            own = [row for row in rows if row.dataset == dataset]
            letters = marks.joined(marks.of_data(own), marks.of_scores(own))
            if len(own) < table.tasks[dataset]:
                letters = marks.joined(letters, marks.PART)
            means.append(float(np.mean([row.value for row in own])))
            if estimate is None:
                score = results.Interval(means[-1])
            else:
                score = estimate.of(dataset).interval
            counts = {row.num_examples for row in own}
            count = counts.pop() if len(counts) == 1 else None
            base = _mean([table.base.get(row.task) for row in own])
            lines.append((dataset, len(own), count, score, base, letters))
        if len(lines) > 1:
            score = results.Interval(float(np.mean(means)))
            is_part = len(rows) < sum(table.tasks.values())
            lines.append(
                (
                    "mean",
                    len(rows),
                    None,
                    score if estimate is None else estimate.interval,
                    _mean([line[4] for line in lines]),
                    marks.PART if is_part else "",
                )
            )
        notes = [_NO_INTERVALS if estimate is None else _INTERVALS]
        notes += marks.legend(rows)
        if any(marks.PART in line[5] for line in lines):
            notes.append(marks.PART_LEGEND)
        return expert_cards.Scores(
            title=table.title, rows=tuple(lines), notes=tuple(notes)
        )

    def _have_answers(self, rows: Sequence[results.ResultRow]) -> bool:
        """Returns whether the answers behind rows are on disk."""
        behind = [one for row in rows for one in self._reported.behind(row)]
        paths = {one.per_example_path for one in behind}
        parent = self._reported.store.path.parent
        return all(path is not None and (parent / path).is_file() for path in paths)


def _tables(reported: ComparableRows) -> Iterator[_Table]:
    shown = reported.shown
    for place, (title, tasks) in enumerate(shown.tables.items()):
        for metric in shown.metrics:
            by_expert: dict[str, list[results.ResultRow]] = {}
            base: dict[str, float] = {}
            datasets: dict[str, str] = {}
            for row in reported.of(tasks, split=shown.split, metric=metric):
                datasets[row.task] = row.dataset
                if row.is_expert:
                    by_expert.setdefault(row.expert, []).append(row)
                elif row.role == "base":
                    base[row.task] = row.value
            # Others may be no means over rows.
            is_main = metric == shown.metrics[0]
            num_scores = sum(map(len, by_expert.values()))
            yield _Table(
                f"{title} tasks: {metric}",
                by_expert,
                base,
                {name: [*datasets.values()].count(name) for name in datasets.values()},
                is_main and (place == 0 or num_scores <= _MOST_READ),
            )


def narrow(one: statistics.Columns) -> dict[statistics.Key, statistics.Column]:
    """Returns results in which prompts of the same rows are one column, of their mean.

    Their resampled mean is the same, and found ten times as fast.
    """
    by_dataset: dict[str, list[tuple[statistics.Key, statistics.Column]]] = {}
    for key, column in one.items():
        by_dataset.setdefault(key[0], []).append((key, column))
    found: dict[statistics.Key, statistics.Column] = {}
    for own in by_dataset.values():
        key, (ids, _) = own[0]
        if all(np.array_equal(ids, other) for _, (other, _) in own[1:]):
            values = np.mean([values for _, (_, values) in own], axis=0)
            found[key] = statistics.Column(ids, values)
        else:
            found |= dict(own)
    return found


def _training(row: results.ResultRow) -> str:
    seed = "not told" if row.training_seed is None else row.training_seed
    fingerprint = row.expert_fingerprint or "not told"
    return f"seed {seed}, {row.checkpoint_step} steps, fingerprint {fingerprint}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
