"""elm_report: result rows to tables in the terminal and one HTML page."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from elm_jax import errors, fields, paths
from elm_jax.data import tasks as task_registry
from elm_jax.disk import files
from elm_jax.evaluation import claims, estimates, metrics, result_store, results
from elm_jax.reporting import marks, page, report, tables, terminal, text
from elm_jax.runs import (
    comparable_rows,
    least_difference,
    loss_curves,
    report_figures,
    report_rows,
    report_votes,
)
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.report_ways import Way, Ways
from elm_jax.runs.run import Plan, Run

# Metrics of tasks whose answers are written, not ranked.
_WRITTEN_METRICS = tuple(key for key in metrics.MAIN_KEYS if key != "accuracy")
_NOTES = {
    "base": "the base alone",
    "multitask": "one model trained on all prompts, same token budget",
    "retrieved": "",  # tells how many instances voted
    "merged_top3": "uniform merge of the three experts with most votes",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Run):
    """Shows what result rows say, and judges the paper's three claims by them.

    Attributes:
      title: Of the page.
      unseen_tasks: Names or patterns of the tasks nobody trained on.
      seen_tasks: Of the experts' own tasks; empty leaves their table out.
      composed_tasks: Of the tasks that need two skills; empty leaves the claim out.
      merged_expert: The merge that is to solve them.
      merged_parts: The experts in it.
      metric: What is shown of ranked tasks.
      split: What is reported.
      selection_split: Where the best single expert is chosen.
      base_fingerprint: The base whose rows are reported, where a result file has rows
        of several; "" if it has one.
      protocol: Likewise the protocol.
      vocabulary: Likewise the vocabulary's fingerprint.
      random_seed: Likewise the seed that chose the rows; None if there is one.
      results_path: Result rows.
      results_after_path: Rows scored again after an expert was added, if any.
      votes_path: What retrieval answered.
      work_dir: Where the metrics of trainings lie.
      compare_work_dir: Where those of the same experts lie that were trained in
        another way, such as alone (`options.Fleet.size = 0`); laid over the curves.
      output_path: The HTML page; tables go beside it as Markdown.
    """

    title: str
    unseen_tasks: str | tuple[str, ...]
    seen_tasks: str | tuple[str, ...] = ()
    composed_tasks: str | tuple[str, ...] = ()
    merged_expert: paths.OptionalName = ""
    merged_parts: tuple[paths.Name, ...] = ()
    metric: str = "accuracy"
    split: str = "test"
    selection_split: str = "validation"
    base_fingerprint: str = ""
    protocol: str = ""
    vocabulary: str = ""
    random_seed: fields.Seed | None = None
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"
    results_after_path: paths.OptionalPath = ""
    votes_path: paths.Path = "{MODEL_DIR}/votes.jsonl"
    work_dir: paths.Path = "{MODEL_DIR}/work"
    compare_work_dir: paths.OptionalPath = ""
    output_path: paths.Path = "{MODEL_DIR}/report/index.html"

    def plan(self) -> Plan:
        """Returns what would be read and written, and what the rows can show.

        Raises:
          DataError: A line of the result file is not a result row.
        """
        return {
            "rows": self.path(self.results_path),
            "smallest difference": self._least_difference(),
            "files": self.path(self.output_path),
        }

    def _least_difference(self) -> str:
        unseen = set(self._expand(self.unseen_tasks))
        shown = (self.split, self.metric)
        return least_difference.of_rows(
            row
            for row in result_store.read_rows(self.path(self.results_path))
            if (row.split, row.metric) == shown and row.task in unseen
        )

    def run(self) -> None:
        """Prints the tables and writes the page."""
        store = result_store.ResultStore(self.path(self.results_path))
        if not store.rows():
            raise errors.DataError(
                found=f"no result rows in {store.path}",
                expected="rows that elm_eval wrote",
                do="Run elm_eval with the same MODEL_DIR first",
            )
        reported = self._comparable(store)
        gaps = self._gaps(reported)
        one = self._report(reported, gaps)
        for table in tables.all_tables(one):
            terminal.show(tables.to_rich(table, width=terminal.console().width))
        for line in tables.claim_lines(one.claims):
            terminal.show(line)
        for line in gaps:
            terminal.show(text.plain(line))
        target = self.path(self.output_path)
        files.write_text(target, page.render(one))
        files.write_text(target.with_name("tables.md"), tables.markdown(one))
        for path in (target, target.with_name("tables.md"), store.path):
            print(path)  # noqa: T201

    def _report(self, reported: ComparableRows, gaps: tuple[str, ...]) -> report.Report:
        unseen = self._expand(self.unseen_tasks)
        seen = self._expand(self.seen_tasks)
        ways = self._ways(reported, unseen)
        votes = self._votes(reported)
        maps = []
        for tasks, title in (
            (unseen, "Experts on unseen tasks"),
            (seen, "Experts on their own tasks"),
        ):
            for metric in self._metrics():
                rows = self._rows(reported, tasks, metric=metric)
                if rows:
                    name = f"{title}: {metric}"
                    won = votes.winners
                    maps.append(report.heat_map(rows, title=name, retrieved=won))
        return report.Report(
            title=self.title,
            claims=tuple(self._claims(reported, ways)),
            headline=ways and self._headline(ways, reported),
            figures=report_figures.tables(ways) if ways else (),
            heat_maps=tuple(maps),
            votes=votes.votes,
            curves=loss_curves.read(
                self.path(self.work_dir),
                self.path(self.compare_work_dir) if self.compare_work_dir else None,
            ),
            details=self._details(reported),
            notes=(
                *gaps,
                "A dataset's score is the mean over its prompts; intervals are 95 %"
                " bootstrap intervals over rows, the prompts of a row kept together.",
                "What is chosen by the rows that are reported, as the oracle is, is an"
                " upper bound, not a method: it has no interval and is never bold.",
            ),
        )

    def _comparable(self, store: result_store.ResultStore) -> ComparableRows:
        """Returns the rows that a table may hold side by side."""
        only = {
            "base_fingerprint": self.base_fingerprint,
            "protocol": self.protocol,
            "vocabulary": self.vocabulary,
            "seed": self.random_seed,
        }
        shown = comparable_rows.Shown(
            tables=self._tables(),
            split=self.split,
            selection_split=self.selection_split,
            metrics=self._metrics(),
            merged_expert=self.merged_expert,
        )
        return ComparableRows(store, only, shown)

    def _tables(self) -> dict[str, list[str]]:
        """Returns the names of tasks by what the report calls them."""
        return {
            "Unseen": self._expand(self.unseen_tasks),
            "Seen": self._expand(self.seen_tasks),
            "Composed": self._expand(self.composed_tasks),
        }

    def _metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.metric, *_WRITTEN_METRICS)))

    def _rows(
        self,
        reported: ComparableRows,
        tasks: Sequence[str],
        *,
        split: str = "",
        metric: str = "",
    ) -> list[results.ResultRow]:
        """Returns the rows of some tasks, by default of what is reported."""
        return reported.of(
            tasks, split=split or self.split, metric=metric or self.metric
        )

    def _headline(self, ways: Ways, reported: ComparableRows) -> report.Headline:
        found = [self._chance(ways, reported)]
        groups = [*(_of_dataset(ways.rows, name) for name in ways.datasets), ways.rows]
        letters: dict[tuple[str, int], str] = {}
        for way in ways.all:
            cells = [_cell(way, name) for name in (*ways.datasets, "")]
            found.append(
                report.HeadlineRow(way.label, tuple(cells), way.note, way.is_reference)
            )
            parts = [*(_of_dataset(way.rows, name) for name in ways.datasets), way.rows]
            for place, part in enumerate(parts):
                letters[way.label, place] = marks.of_scores(part)
        short = text.without_common_prefix(ways.datasets)
        return report.Headline(
            columns=(*short, "mean"),
            rows=tuple(found),
            column_marks=dict(enumerate(map(marks.of_data, groups))),
            marks=letters,
            legend=(
                *marks.legend([row for way in ways.all for row in way.rows]),
                report_figures.resampled(ways.all),
            ),
            # The first row is chance.
            strong=frozenset((i + 1, j) for i, j in report_figures.strong(ways.all)),
        )

    def _ways(self, reported: ComparableRows, unseen: Sequence[str]) -> Ways | None:
        """Returns what the main table compares; None if no unseen task is ranked."""
        rows = self._rows(reported, unseen)
        if not rows:
            return None
        notes = _NOTES | {"retrieved": self._votes(reported).note}
        for row in rows:  # those are methods' results, too
            if row.kind in ("multitask", "merged"):
                parts = filter(None, (f"a {row.kind} expert", row.source))
                notes.setdefault(row.expert, ", ".join(parts))
        return Ways(
            reported,
            rows,
            chosen_on=self._rows(reported, unseen, split=self.selection_split),
            notes=notes,
            selection_split=self.selection_split,
        )

    def _chance(self, ways: Ways, reported: ComparableRows) -> report.HeadlineRow:
        names = sorted({row.task for row in ways.rows})
        rows = self._rows(reported, names, metric="chance")
        by_task = {(row.dataset, row.task): row.value for row in rows}
        means = []
        for dataset in ways.datasets:
            values = [v for (name, _), v in by_task.items() if name == dataset]
            means.append(sum(values) / len(values) if values else float("nan"))
        means.append(sum(means) / len(means))
        cells = [None if math.isnan(m) else results.Interval(m) for m in means]
        return report.HeadlineRow("chance", tuple(cells), "a fair guess", True)

    def _gaps(self, reported: ComparableRows) -> tuple[str, ...]:
        """Returns what the rows lack of what is to be shown, a sentence each."""
        wanted, shown = self._tables(), self._metrics()
        unseen = wanted["Unseen"]
        report_rows.check(
            reported.newest,
            unseen,
            split=self.split,
            metrics=shown,
            path=reported.store.path,
        )
        rows = self._rows(reported, unseen)
        chosen_on = self._rows(reported, unseen, split=self.selection_split)
        every = [task for names in wanted.values() for task in names]
        for metric in shown:
            report_rows.check_same_data(self._rows(reported, every, metric=metric))
        report_rows.check_same_data(chosen_on)
        report_rows.check_same_examples(
            row
            for row in reported.all
            if row.split == self.split or row.is_single_expert  # which are chosen from
        )
        others = self._votes(reported).others
        return (
            *report_rows.tasks_without_rows(
                reported.all, wanted, split=self.split, metrics=shown
            ),
            *report_rows.unequal(rows, chosen_on, labels=_NOTES),
            *reported.doubts(),
            *report_rows.other_votes(others),
            *self._silent_claims(reported, rows),
        )

    def _silent_claims(
        self,
        reported: ComparableRows,
        rows: Sequence[results.ResultRow],
    ) -> Iterator[str]:
        """Yields why claims are not judged that the rows of an expert call for."""
        composed = self._rows(reported, self._expand(self.composed_tasks))
        judged = {
            "experts against the multitask model": ("multitask", "retrieved"),
            "merging": tuple(filter(None, (self.merged_expert, *self.merged_parts))),
        }
        there = {
            "experts against the multitask model": {row.expert for row in rows},
            "merging": {row.expert for row in composed},
        }
        asked = {
            subject: names
            for subject, names in judged.items()
            if any(name.startswith(names) for name in there[subject])
        }
        yield from report_rows.lacking_claims(asked, there)

    def _claims(
        self, reported: ComparableRows, ways: Ways | None
    ) -> list[results.Claim]:
        """Returns the claims that the rows at hand can speak to."""
        found = []
        if ways is not None:
            found += _claim_of_experts(ways)
        after = self.path(self.results_after_path) if self.results_after_path else None
        if after is not None and after.is_file():
            again = self._comparable(result_store.ResultStore(after))
            found.append(claims.expert_added(reported.newest, again.newest))
        composed = _scores(
            reported, self._rows(reported, self._expand(self.composed_tasks))
        )
        if {self.merged_expert, *self.merged_parts} <= composed.keys():
            parts = {name: composed[name] for name in self.merged_parts}
            merged = composed[self.merged_expert]
            found.append(claims.merge_beats_parts(merged, parts, metric=self.metric))
        return found

    def _votes(self, reported: ComparableRows) -> report_votes.ShownVotes:
        unseen = self._expand(self.unseen_tasks)
        found = (self._rows(reported, unseen, metric=m) for m in self._metrics())
        rows = list(itertools.chain.from_iterable(found))
        return report_votes.read(self.path(self.votes_path), rows)

    def _details(self, reported: ComparableRows) -> tuple[tuple[str, str], ...]:
        rows = reported.all
        return (
            ("result rows", f"{len(rows)} of {reported.store.path.name}"),
            ("base", ", ".join(sorted({row.base_fingerprint for row in rows}))),
            ("protocol", ", ".join(sorted({row.protocol for row in rows}))),
            ("vocabulary", ", ".join(sorted({r.vocabulary for r in rows} - {""}))),
        )

    def _expand(self, names: str | tuple[str, ...]) -> list[str]:
        return task_registry.registry.expand(names) if names else []


def _of_dataset(
    rows: Sequence[results.ResultRow], name: str
) -> list[results.ResultRow]:
    return [row for row in rows if row.dataset == name]


def _cell(way: Way, dataset: str) -> results.Interval | None:
    """Returns the score on a dataset, or the mean over all for ""; None if part lacks.

    A mean over other prompts than those of the other ways is none. Where the rows
    chose, an interval from them would be of the luck, too.
    """
    one = way.whole if not dataset else None
    if dataset and way.score is not None and dataset in way.score.datasets:
        one = way.score.of(dataset)
    if one is None:
        return None
    return results.Interval(one.mean) if way.is_bound else one.interval


def _claim_of_experts(ways: Ways) -> Iterator[results.Claim]:
    multitask, retrieved = (ways.by_label(n) for n in ("multitask", "retrieved"))
    if not (multitask and retrieved and multitask.whole and retrieved.whole):
        return
    experts = {"retrieved": retrieved.whole}
    best = ways.by_label("best_single")
    if best is not None and best.whole is not None and not best.is_bound:
        experts[f"best single ({best.note.partition(',')[0]})"] = best.whole
    fitted = ways.by_label("best_single_crossfit")
    if fitted is not None and fitted.whole is not None:
        experts["best single (cross-fitted)"] = fitted.whole
    yield claims.experts_against_multitask(experts, multitask.whole)


def _scores(
    reported: ComparableRows, rows: Sequence[results.ResultRow]
) -> dict[str, estimates.Estimate]:
    """Returns the score of every expert and strategy."""
    draws = estimates.Draws()
    names = dict.fromkeys(row.expert for row in rows)
    own = {name: [row for row in rows if row.expert == name] for name in names}
    return {
        name: estimates.estimate(reported.trainings(of), draws, who=name)
        for name, of in own.items()
    }
