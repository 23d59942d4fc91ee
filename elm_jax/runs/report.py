"""elm_report: result rows to tables in the terminal and one HTML page."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Sequence

from elm_jax import errors, files, paths
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import claims, metrics, results, selection, statistics
from elm_jax.reporting import marks, page, report, tables, terminal, text
from elm_jax.runs import report_rows
from elm_jax.runs.run import Plan, Run

# Metrics of tasks whose answers are written, not ranked.
_WRITTEN_METRICS = tuple(key for key in metrics.MAIN_KEYS if key != "accuracy")
_NOTES = {
    "base": "the base alone",
    "multitask": "one model trained on all prompts, same token budget",
    "retrieved": "RoE: the expert that 32 unlabelled instances vote for",
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
    merged_expert: str = ""
    merged_parts: tuple[str, ...] = ()
    metric: str = "accuracy"
    split: str = "test"
    selection_split: str = "validation"
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
        gaps = self._gaps(store)
        one = self._report(store, gaps)
        found = tables.all_tables(one)
        for table in found:
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

    def _report(
        self, store: results.ResultStore, gaps: tuple[str, ...]
    ) -> report.Report:
        unseen = self._expand(self.unseen_tasks)
        seen = self._expand(self.seen_tasks)
        votes = self._votes()
        winners = {task: counts[0][0] for task, counts in votes.items() if counts}
        maps = []
        for tasks, title in (
            (unseen, "Experts on unseen tasks"),
            (seen, "Experts on their own tasks"),
        ):
            for metric in dict.fromkeys((self.metric, *_WRITTEN_METRICS)):
                rows = self._rows(store, tasks, metric=metric)
                if rows:
                    name = f"{title}: {metric}"
                    maps.append(report.heat_map(rows, title=name, retrieved=winners))
        return report.Report(
            title=self.title,
            claims=tuple(self._claims(store, unseen)),
            headline=self._headline(store, unseen),
            heat_maps=tuple(maps),
            votes=tuple(report.Votes(t, tuple(c)) for t, c in sorted(votes.items())),
            curves=tuple(self._curves()),
            details=self._details(store),
            notes=(
                *gaps,
                "A dataset's score is the mean over its prompts; intervals are 95 %"
                " bootstrap intervals over rows, the prompts of a row kept together.",
                "The best single expert is chosen on validation rows. The oracle is"
                " chosen on the reported rows: an upper bound, not a method.",
            ),
        )

    def _rows(
        self,
        store: results.ResultStore,
        tasks: Sequence[str],
        *,
        split: str = "",
        metric: str = "",
    ) -> list[results.ResultRow]:
        """Returns the newest rows of some tasks, by default of what is reported."""
        return selection.select(
            _latest(store),
            split=split or self.split,
            metric=metric or self.metric,
            tasks=tasks,
        )

    def _headline(
        self, store: results.ResultStore, unseen: Sequence[str]
    ) -> report.Headline | None:
        rows = self._rows(store, unseen)
        if not rows:
            return None  # none of the tasks is ranked
        datasets = sorted({row.dataset for row in rows})
        ways = {label: [row for row in rows if row.expert == label] for label in _NOTES}
        notes = dict(_NOTES)
        for label, choice, note in self._choices(store, unseen):
            singles = selection.single_experts(rows)
            ways[label] = selection.view(singles, choice, label=label)
            notes[label] = note
        found = [self._chance(store, unseen, datasets)]
        groups = [*(_of_dataset(rows, name) for name in datasets), rows]
        letters: dict[tuple[str, int], str] = {}
        for label, own in ways.items():
            if own:
                columns = statistics.columns(own, store.per_example)
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
        self, store: results.ResultStore, unseen: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, str], str]]:
        """Yields ways to choose among single experts: label, expert by task, note."""
        singles = selection.single_experts(self._rows(store, unseen))
        chosen_on = selection.single_experts(
            self._rows(store, unseen, split=self.selection_split)
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
        self, store: results.ResultStore, unseen: Sequence[str], datasets: Sequence[str]
    ) -> report.HeadlineRow:
        rows = self._rows(store, unseen, metric="chance")
        by_task = {(row.dataset, row.task): row.value for row in rows}
        means = []
        for dataset in datasets:
            values = [v for (name, _), v in by_task.items() if name == dataset]
            means.append(sum(values) / len(values) if values else float("nan"))
        means.append(sum(means) / len(means))
        cells = [None if math.isnan(m) else results.Interval(m) for m in means]
        return report.HeadlineRow("chance", tuple(cells), "a fair guess", True)

    def _gaps(self, store: results.ResultStore) -> tuple[str, ...]:
        """Returns what the rows lack of what is to be shown, a sentence each."""
        unseen = self._expand(self.unseen_tasks)
        shown = (self.metric, *_WRITTEN_METRICS)
        report_rows.check(
            store.rows(), unseen, split=self.split, metrics=shown, path=store.path
        )
        wanted = {
            "Unseen": unseen,
            "Seen": self._expand(self.seen_tasks),
            "Composed": self._expand(self.composed_tasks),
        }
        rows = self._rows(store, unseen)
        chosen_on = self._rows(store, unseen, split=self.selection_split)
        for metric in shown:
            every = [task for names in wanted.values() for task in names]
            report_rows.check_same_data(self._rows(store, every, metric=metric))
        report_rows.check_same_data(chosen_on)
        return (
            *report_rows.tasks_without_rows(
                store.rows(), wanted, split=self.split, metrics=shown
            ),
            *report_rows.unequal(rows, chosen_on, labels=_NOTES),
        )

    def _claims(
        self, store: results.ResultStore, unseen: Sequence[str]
    ) -> list[results.Claim]:
        """Returns the claims that the rows at hand can speak to."""
        found = []
        rows = self._rows(store, unseen)
        ways = _columns(store, rows)
        if {"multitask", "retrieved"} <= ways.keys():
            experts = {"retrieved": ways["retrieved"]}
            for label, choice, _ in self._choices(store, unseen):
                if label == "best_single":
                    name = next(iter(choice.values()))
                    experts[f"best single ({name})"] = ways[name]
            found.append(claims.experts_against_multitask(experts, ways["multitask"]))
        after = self.path(self.results_after_path) if self.results_after_path else None
        if after is not None and after.is_file():
            found.append(_unchanged(_latest(store), results.read_rows(after)))
        composed = _columns(store, self._rows(store, self._expand(self.composed_tasks)))
        if {self.merged_expert, *self.merged_parts} <= composed.keys():
            parts = {name: composed[name] for name in self.merged_parts}
            merged = composed[self.merged_expert]
            found.append(claims.merge_beats_parts(merged, parts, metric=self.metric))
        return found

    def _votes(self) -> dict[str, list[tuple[str, int]]]:
        path = self.path(self.votes_path)
        if not path.is_file():
            return {}
        lines = map(json.loads, path.read_text("utf-8").splitlines())
        return {line["task"]: [tuple(pair) for pair in line["votes"]] for line in lines}

    def _curves(self) -> list[report.Curve]:
        curves = self._losses(self.work_dir)
        others = self._losses(self.compare_work_dir) if self.compare_work_dir else {}
        if self.compare_work_dir and not others:
            raise errors.DataError(
                errors.explain(
                    found=f"no metrics in {self.path(self.compare_work_dir)}",
                    expected="<expert>/metrics.jsonl, as elm_train writes them",
                    do="Set COMPARE_WORK_DIR to the folder `work` of another MODEL_DIR,"
                    ' or to ""',
                )
            )
        return [report.Curve(n, own, others.get(n, ())) for n, own in curves.items()]

    def _losses(self, work_dir: str) -> dict[str, tuple[tuple[int, float], ...]]:
        """Returns (step, loss) of every training below a work folder, by expert."""
        found = {}
        for path in sorted(self.path(work_dir).glob("*/metrics.jsonl")):
            lines = map(json.loads, path.read_text("utf-8").splitlines())
            found[path.parent.name] = tuple((row["step"], row["loss"]) for row in lines)
        return found

    def _details(self, store: results.ResultStore) -> tuple[tuple[str, str], ...]:
        rows = _latest(store)
        return (
            ("result rows", f"{len(rows)} in {pathlib.Path(store.path).name}"),
            ("base", ", ".join(sorted({row.base_fingerprint for row in rows}))),
            ("protocol", ", ".join(sorted({row.protocol for row in rows}))),
        )

    def _expand(self, names: str | tuple[str, ...]) -> list[str]:
        return task_registry.registry.expand(names) if names else []


def _of_dataset(
    rows: Sequence[results.ResultRow], name: str
) -> list[results.ResultRow]:
    return [row for row in rows if row.dataset == name]


def _columns(
    store: results.ResultStore, rows: Sequence[results.ResultRow]
) -> dict[str, statistics.Columns]:
    """Returns the per-example results of every expert and strategy."""
    return {
        name: statistics.columns(
            [row for row in rows if row.expert == name], store.per_example
        )
        for name in dict.fromkeys(row.expert for row in rows)
    }


def _unchanged(
    before: Sequence[results.ResultRow], after: Sequence[results.ResultRow]
) -> results.Claim:
    """Judges the old experts' scores; says how many retrievals the new ones changed."""
    again = {(row.expert, row.task, row.split) for row in after}
    old = [row for row in before if (row.expert, row.task, row.split) in again]
    claim = claims.scores_unchanged(selection.single_experts(old), after)
    chosen = [
        {row.task: row.expert_fingerprint for row in rows if row.expert == "retrieved"}
        for rows in (old, after)
    ]
    changed = sum(chosen[1].get(task) != expert for task, expert in chosen[0].items())
    text = f"Of {len(chosen[0])} old tasks, {changed} now retrieve a new expert."
    return dataclasses.replace(claim, evidence=f"{claim.evidence} {text}")


def _latest(store: results.ResultStore) -> list[results.ResultRow]:
    """Returns the rows of a store, the newest where an expert was scored again.

    What `retrieved` stands for changes when its library grows.
    """
    newest = {
        (row.expert, row.task, row.split, row.metric, row.protocol): row
        for row in store.rows()
    }
    return list(newest.values())
