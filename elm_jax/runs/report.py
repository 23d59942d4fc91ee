"""elm_report: result rows to tables in the terminal and one HTML page."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from elm_jax import errors, fields, paths
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import claims, metrics, result_store, results, row_lines
from elm_jax.reporting import report
from elm_jax.runs import (
    comparable_rows,
    least_difference,
    loss_curves,
    report_cards,
    report_claims,
    report_comparison,
    report_examples,
    report_figures,
    report_files,
    report_gaps,
    report_headline,
    report_held_in,
    report_maps,
    report_pages,
    report_pairs,
    report_routing,
    report_votes,
    report_ways,
)
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.report_ways import Ways
from elm_jax.runs.run import Plan, Run

# Metrics of tasks whose answers are written, not ranked.
_WRITTEN_METRICS = tuple(key for key in metrics.MAIN_KEYS if key != "accuracy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Run):
    """Shows what result rows say, and judges the paper's three claims by them.

    Attributes:
      title: The page's title.
      unseen_tasks: Names or patterns of the tasks nobody trained on.
      seen_tasks: Names or patterns of the experts' own tasks; empty: no table of them.
      composed_tasks: Names or patterns of tasks for two skills; empty: no claim.
      merged_expert: The merge that is to solve them.
      merged_parts: The experts in it.
      metric: The metric that is shown of ranked tasks.
      judged_by: The strategy that is compared with the multitask model, named before
        results are known; "" for `retrieved`, or the only one that chooses by task.
      split: The split that is reported.
      selection_split: Where the best single expert is chosen.
      base_fingerprint: The base whose rows are reported, where a result file has rows
        of several; "" if it has one.
      protocol: The protocol of the rows that are reported, likewise.
      vocabulary: The fingerprint of their vocabulary, likewise.
      random_seed: The seed that chose these rows, likewise; None if there is one.
      results_path: Result rows.
      results_after_path: Rows scored again after an expert was added, if any.
      votes_path: What retrieval answered.
      work_dir: Where the metrics of trainings lie.
      cache_dir: Token caches, for the pages of examples beside the report; tasks whose
        tokens are not there have none. "" for no such pages.
      max_examples: Examples shown of each task, the dataset's first ones; 0 for all.
      compare_work_dir: Where the metrics of the same experts lie, trained in another
        way, such as alone (`options.Fleet.size = 0`); their curves are laid over these.
      output_path: The HTML page; beside it go tables as Markdown and CSV, and cards.
    """

    title: str
    unseen_tasks: str | tuple[str, ...]
    seen_tasks: str | tuple[str, ...] = ()
    composed_tasks: str | tuple[str, ...] = ()
    merged_expert: paths.OptionalName = ""
    merged_parts: tuple[paths.Name, ...] = ()
    metric: str = "accuracy"
    judged_by: paths.OptionalName = ""
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
    cache_dir: paths.OptionalPath = "{MODEL_DIR}/cache"
    max_examples: fields.CountOrNone = 20
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
        rows = row_lines.peek(self.path(self.results_path))
        shown = rows.where(split=self.split, metric=self.metric)
        shown = shown.among("task", set(self._expand(self.unseen_tasks)))
        return least_difference.of_rows(
            shown.take(shown.groups("dataset", "num_examples").firsts)
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
        judged, votes = self._judged(reported), self._votes(reported)
        gaps = report_gaps.of(reported, judged, other_votes=votes.other_tasks)
        ways = self._ways(reported, self._expand(self.unseen_tasks))
        examples = ways and self._examples(ways, reported)
        page = self._report(reported, gaps, ways)
        page = page if examples is None else examples.linked(page)
        routes = report_routing.Pages(ways, reported) if ways else None
        page = routes.linked(page) if routes else page
        cards = report_cards.Cards(reported, ways and ways.draws)
        target = self.path(self.output_path)
        page = report_comparison.linked(cards.linked(page), target, reported.all)
        report_files.show(page, target)
        report_files.show_gaps(gaps)
        written = report_files.write(page, target)
        pages = cards.write(target) + report_pages.write(examples, routes, target)
        for path in (*written, *pages, store.path):
            print(path)  # noqa: T201

    def _examples(
        self, ways: Ways, reported: ComparableRows
    ) -> report_examples.Pages | None:
        if not self.cache_dir:
            return None
        return report_examples.Pages(
            ways,
            reported,
            cache_dir=self.path(self.cache_dir),
            max_examples=self.max_examples or None,
        )

    def _report(
        self, reported: ComparableRows, gaps: tuple[str, ...], ways: Ways | None
    ) -> report.Report:
        maps = self._maps(reported, ways)
        votes, judged = self._votes(reported), self._judged(reported)
        return report.Report(
            title=self.title,
            claims=tuple(self._claims(reported, ways)),
            headline=ways and report_headline.make(ways, reported),
            figures=self._figures(reported, ways) if ways else (),
            heat_maps=tuple(maps),
            pairs=ways and report_pairs.make(ways, maps[0], judged_by=judged.strategy),
            votes=votes.votes,
            curves=loss_curves.read(
                self.path(self.work_dir),
                self.path(self.compare_work_dir) if self.compare_work_dir else None,
            ),
            details=reported.details(),
            notes=(
                *gaps,
                "A dataset's score is the mean over its prompts; intervals are 95 %"
                " bootstrap intervals over rows, the prompts of a row kept together.",
                "What is chosen by the rows that are reported, as the oracle is, is an"
                " upper bound, not a method: it has no interval and is never bold.",
            ),
        )

    def _maps(
        self, reported: ComparableRows, ways: Ways | None
    ) -> list[report.HeatMap]:
        """Returns the heat maps; the first one is of the main table's tasks."""
        votes = self._votes(reported)
        maps = []
        for names, title in (
            (self.unseen_tasks, "Experts on unseen tasks"),
            (self.seen_tasks, "Experts on their own tasks"),
        ):
            for metric in self._metrics():
                rows = self._rows(reported, self._expand(names), metric=metric)
                if rows:
                    compared = ways if ways and ways.rows == rows else None
                    name = f"{title}: {metric}"
                    heat_map = report_maps.make(
                        rows, title=name, votes=votes, ways=compared
                    )
                    maps.append(heat_map)
        return maps

    def _figures(
        self, reported: ComparableRows, ways: Ways
    ) -> tuple[report.Figures, ...]:
        seen_rows = self._rows(reported, self._expand(self.seen_tasks))
        return (
            *report_figures.tables(ways),
            *report_held_in.table(ways, reported, seen_rows),
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
        """Returns the names of tasks, by the titles of the report's tables."""
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
    ) -> Sequence[results.ResultRow]:
        """Returns the rows of some tasks, by default of what is reported."""
        return reported.of(
            tasks, split=split or self.split, metric=metric or self.metric
        )

    def _ways(self, reported: ComparableRows, unseen: Sequence[str]) -> Ways | None:
        """Returns what the main table compares; None if no unseen task is ranked."""
        rows = self._rows(reported, unseen)
        if not rows:
            return None
        votes = self._votes(reported)
        return Ways(
            reported,
            rows,
            chosen_on=self._rows(reported, unseen, split=self.selection_split),
            note_of=lambda row: report_ways.note(row, votes.note),
            selection_split=self.selection_split,
        )

    def _claims(
        self, reported: ComparableRows, ways: Ways | None
    ) -> Iterator[results.Claim]:
        """Yields the claims that these rows can decide."""
        judged = self._judged(reported)
        if ways is not None:
            yield from report_claims.of_experts(judged, ways)
        path = self.path(self.results_after_path) if self.results_after_path else None
        if path is not None and path.is_file():
            new_rows = self._comparable(result_store.ResultStore(path))
            yield claims.expert_added(reported.newest, new_rows.newest)
        yield from report_claims.of_merging(
            judged, reported, self._composed(reported), metric=self.metric
        )

    def _judged(self, reported: ComparableRows) -> report_claims.Judged:
        unseen = self._rows(reported, self._expand(self.unseen_tasks))
        return report_claims.Judged(
            strategy=self.judged_by or report_claims.judged_by_default(unseen),
            merged=self.merged_expert,
            parts=self.merged_parts,
        )

    def _composed(self, reported: ComparableRows) -> Sequence[results.ResultRow]:
        return self._rows(reported, self._expand(self.composed_tasks))

    def _votes(self, reported: ComparableRows) -> report_votes.ShownVotes:
        unseen = self._expand(self.unseen_tasks)
        by_metric = (self._rows(reported, unseen, metric=m) for m in self._metrics())
        rows = list(itertools.chain.from_iterable(by_metric))
        return report_votes.read(self.path(self.votes_path), rows, reported.names)

    def _expand(self, names: str | tuple[str, ...]) -> list[str]:
        return task_registry.registry.expand(names) if names else []
