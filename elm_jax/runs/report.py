"""elm_report: result rows to tables in the terminal and one HTML page."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from elm_jax import errors, fields, files, paths
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import (
    claims,
    metrics,
    results,
    selection,
    statistics,
)
from elm_jax.reporting import marks, page, report, tables, terminal, text
from elm_jax.runs import comparable_rows, loss_curves, report_rows, report_votes
from elm_jax.runs.comparable_rows import ComparableRows
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
        another way, such as alone (`fleet_size = 0`); laid over the curves.
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
        """Returns what would be read and written."""
        return {
            "rows": self.path(self.results_path),
            "files": self.path(self.output_path),
        }

    def run(self) -> None:
        """Prints the tables and writes the page."""
        store = results.ResultStore(self.path(self.results_path))
        if not store.rows():
            raise errors.DataError(
                errors.explain(
                    found=f"no result rows in {store.path}",
                    expected="rows that elm_eval wrote",
                    do="Run elm_eval with the same MODEL_DIR first",
                )
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
            claims=tuple(self._claims(reported, unseen)),
            headline=self._headline(reported, unseen),
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
                "The best single expert is chosen on validation rows. The oracle is"
                " chosen on the reported rows: an upper bound, not a method.",
            ),
        )

    def _comparable(self, store: results.ResultStore) -> ComparableRows:
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

    def _headline(
        self, reported: ComparableRows, unseen: Sequence[str]
    ) -> report.Headline | None:
        rows = self._rows(reported, unseen)
        if not rows:
            return None  # none of the tasks is ranked
        datasets = sorted({row.dataset for row in rows})
        notes = _NOTES | {"retrieved": self._votes(reported).note}
        for row in rows:  # those are methods' results, too
            if row.kind in ("multitask", "merged"):
                parts = filter(None, (f"a {row.kind} expert", row.source))
                notes.setdefault(row.expert, ", ".join(parts))
        ways = {label: [row for row in rows if row.expert == label] for label in notes}
        for label, choice, note in self._choices(reported, unseen):
            singles = selection.single_experts(rows)
            ways[label] = selection.view(singles, choice, label=label)
            notes[label] = note
        found = [self._chance(reported, unseen, datasets)]
        groups = [*(_of_dataset(rows, name) for name in datasets), rows]
        letters: dict[tuple[str, int], str] = {}
        for label, own in ways.items():
            if own:
                columns = statistics.columns(own, reported.store.per_example)
                # A mean over other prompts than those of the other rows is none.
                cells = [
                    statistics.interval({key: columns[key] for key in keys})
                    if keys <= columns.keys()
                    else None
                    for keys in ({(r.dataset, r.task) for r in g} for g in groups)
                ]
                is_bound = label == "oracle"
                found.append(
                    report.HeadlineRow(label, tuple(cells), notes[label], is_bound)
                )
                parts = [*(_of_dataset(own, name) for name in datasets), own]
                for place, part in enumerate(parts):
                    letters[label, place] = marks.of_scores(part)
        short = text.without_common_prefix(datasets)
        return report.Headline(
            columns=(*short, "mean"),
            rows=tuple(found),
            column_marks=dict(enumerate(map(marks.of_data, groups))),
            marks=letters,
            legend=marks.legend([row for own in ways.values() for row in own]),
        )

    def _choices(
        self, reported: ComparableRows, unseen: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, str], str]]:
        """Yields ways to choose among single experts: label, expert by task, note."""
        singles = selection.single_experts(self._rows(reported, unseen))
        chosen_on = selection.single_experts(
            self._rows(reported, unseen, split=self.selection_split)
        )
        if singles and chosen_on:
            best, *equals = selection.best_singles(chosen_on)
            where = f"chosen on {self.selection_split} rows"
            note = f"{best}, {where}"
            if equals:
                note += f", the first by name of {1 + len(equals)} with the best mean"
            yield "best_single", selection.everywhere(best, singles), note
            each = selection.oracle(chosen_on)
            yield "best_per_prompt", each, f"the best expert of each prompt, {where}"
        if singles:
            each = selection.oracle(singles)
            note = "the best expert of each prompt, chosen on these rows: a bound"
            yield "oracle", each, note

    def _chance(
        self,
        reported: ComparableRows,
        unseen: Sequence[str],
        datasets: Sequence[str],
    ) -> report.HeadlineRow:
        rows = self._rows(reported, unseen, metric="chance")
        by_task = {(row.dataset, row.task): row.value for row in rows}
        means = []
        for dataset in datasets:
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
        self, reported: ComparableRows, unseen: Sequence[str]
    ) -> list[results.Claim]:
        """Returns the claims that the rows at hand can speak to."""
        found = []
        rows = self._rows(reported, unseen)
        ways = _columns(reported, rows)
        if {"multitask", "retrieved"} <= ways.keys():
            experts = {"retrieved": ways["retrieved"]}
            for label, choice, _ in self._choices(reported, unseen):
                if label == "best_single":
                    name = next(iter(choice.values()))
                    experts[f"best single ({name})"] = ways[name]
            found.append(claims.experts_against_multitask(experts, ways["multitask"]))
        after = self.path(self.results_after_path) if self.results_after_path else None
        if after is not None and after.is_file():
            again = self._comparable(results.ResultStore(after))
            found.append(claims.expert_added(reported.newest, again.newest))
        composed = _columns(
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


def _columns(
    reported: ComparableRows, rows: Sequence[results.ResultRow]
) -> dict[str, statistics.Columns]:
    """Returns the per-example results of every expert and strategy."""
    return {
        name: statistics.columns(
            [row for row in rows if row.expert == name], reported.store.per_example
        )
        for name in dict.fromkeys(row.expert for row in rows)
    }
