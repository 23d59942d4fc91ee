"""elm_report: published numbers beside ours, cell by cell, and how to get the rest."""

import dataclasses
from collections.abc import Iterator, Mapping

from elm_jax import errors, fields, paths
from elm_jax.disk import files
from elm_jax.library import sampling
from elm_jax.reporting import page, report, tables, terminal, text
from elm_jax.runs import replay_data
from elm_jax.runs.replay_data import MEAN, Published, Row, Table
from elm_jax.runs.replay_scores import Ours, RowSource, Scores
from elm_jax.runs.run import Plan, Run

_WITHIN, _OUTSIDE = "within", "outside"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay(Run):
    """Holds result rows against published tables, and says what lacks for the rest.

    A cell is `within` if the published number is no farther than the tolerance from
    our interval, or from our number where this has none (of bounds and ranks).

    Attributes:
      title: The page's title.
      published_path: The published numbers.
      tables: Names of its tables that are shown; empty for all.
      ours: By published row, the name in result rows of what is held against it,
        where it is not the one that the file names.
      results: By published row, the result file, where it is another one.
      bases: By published row, the fingerprint of the base whose rows count, where a
        result file has rows of several.
      protocol: Whose rows count, where a result file has rows of several.
      random_seed: The seed that chose these rows, likewise; None if there is one.
      tolerance: Points by which a published score may miss our interval.
      rank_tolerance: Ranks by which a published rank may differ.
      device_flops: Operations per second by which hours are told; by default what an
        accelerator of 400 TFLOP/s does at 40 %.
      results_path: Result rows.
      output_path: The HTML page; tables go beside it as Markdown.
    """

    title: str
    published_path: paths.Path = "{PACKAGE}/tasks/tables/published.json"
    tables: tuple[str, ...] = ()
    ours: Mapping[str, str] = dataclasses.field(default_factory=dict)
    results: Mapping[str, paths.Path] = dataclasses.field(default_factory=dict)
    bases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    protocol: str = ""
    random_seed: fields.Seed | None = None
    tolerance: fields.NotNegative = 1.0
    rank_tolerance: fields.NotNegative = 10.0
    device_flops: fields.Positive = 1.6e14
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"
    output_path: paths.Path = "{MODEL_DIR}/replay/index.html"

    def plan(self) -> Plan:
        """Returns what would be read and written, and how many cells there are.

        Raises:
          ConfigError: A table or row that is named is not among those published.
          DataError: The published numbers cannot be read.
        """
        content = self._published()
        shown = self._tables(content)
        scores = self._scores(content)
        return {
            "tables": ", ".join(table["name"] for table in shown),
            "cells": sum(len(r["cells"]) for t in shown for r in t["rows"]),
            "rows": ", ".join(
                dict.fromkeys(str(source.path) for source in scores.sources.values())
            ),
            "files": self.path(self.output_path),
        }

    def run(self) -> None:
        """Prints the tables and writes the page.

        Raises:
          ElmError: As `plan`, or a result file mixes what cannot be compared.
        """
        content = self._published()
        scores = self._scores(content)
        counts: dict[str, int] = {}
        figures = [
            self._figures(content, table, row, scores, counts)
            for table in self._tables(content)
            for row in table["rows"]
        ]
        counted = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        replay_report = report.Report(
            title=self.title,
            summary=f"Of {sum(counts.values())} published cells: {counted}.",
            figures=tuple(figures),
            details=(("published", str(self.path(self.published_path))),),
            notes=(
                f"within: the published number is no farther than {self.tolerance:g}"
                " points from our 95 % interval, or from our number where this has"
                f" none ({self.rank_tolerance:g} for ranks).",
                "Hours are operations at most, at"
                f" {self.device_flops / 1e12:g} TFLOP/s; nothing of it was measured.",
            ),
        )
        for table in tables.all_tables(replay_report):
            terminal.show(tables.to_rich(table, width=terminal.console().width))
        terminal.show(text.plain(replay_report.summary))
        target = self.path(self.output_path)
        files.write_text(target, page.render(replay_report))
        files.write_text(target.with_name("tables.md"), tables.markdown(replay_report))
        for path in (target, target.with_name("tables.md")):
            print(path)  # noqa: T201

    def _published(self) -> Published:
        return replay_data.read(self.path(self.published_path))

    def _tables(self, content: Published) -> list[Table]:
        names = [table["name"] for table in content["tables"]]
        self._check_known("tables", self.tables, names)
        chosen_names = self.tables or names
        return [table for table in content["tables"] if table["name"] in chosen_names]

    def _scores(self, content: Published) -> Scores:
        rows = [row for table in content["tables"] for row in table["rows"]]
        names = [row["name"] for row in rows]
        for field in ("ours", "results", "bases"):
            self._check_known(field, tuple(getattr(self, field)), names)
        sources = {}
        for row in rows:
            name = row["name"]
            only = {
                "base_fingerprint": self.bases.get(name, ""),
                "protocol": self.protocol,
                "seed": self.random_seed,
            }
            path = self.path(self.results.get(name, self.results_path))
            label = self.ours.get(name, row["ours"])
            sources[name] = RowSource(path, tuple(only.items()), label)
        return Scores(sources, sampling.NUM_QUERIES)

    def _check_known(
        self, field: str, chosen: tuple[str, ...], names: list[str]
    ) -> None:
        for name in chosen:
            if name not in names:
                raise errors.ConfigError(
                    found=f"Replay.{field} with {name!r}",
                    expected=f"one of {', '.join(names)}",
                    do=errors.did_you_mean(name, names),
                )

    def _figures(
        self,
        content: Published,
        table: Table,
        row: Row,
        scores: Scores,
        counts: dict[str, int],
    ) -> report.Figures:
        labels = {column["name"]: column["label"] for column in table["columns"]}
        lines: list[tuple[str, tuple[report.Figure, ...]]] = []
        marks: dict[str, str] = {}  # numbers of notes by their columns
        for column in (*labels, MEAN):
            if column in row["notes"]:
                marks[column] = f" [{len(marks) + 1}]"
        is_missing = False
        for column in (*labels, MEAN):
            published = row["cells"].get(column)
            if published is None:
                continue
            cell = scores.cell(table, row, column)
            verdict = self._verdict(table, published, cell)
            is_missing |= cell.value is None
            verdict_kind = (
                verdict if verdict in (_WITHIN, _OUTSIDE) else "not scored whole"
            )
            counts[verdict_kind] = counts.get(verdict_kind, 0) + 1
            gap = None if cell.value is None else cell.value.mean - published
            lines.append(
                (
                    labels.get(column, column) + marks.get(column, ""),
                    (
                        f"{published:.2f}",
                        cell.value,
                        text.number(gap, signed=True),
                        verdict,
                    ),
                )
            )
        if table["kind"] == "gains":
            fitted = scores.cross_fitted(table, row)
            lines.append(("the same, cross-fitted", ("", fitted, "", "")))
        return report.Figures(
            title=f"{table['title']}: {row['label']}",
            columns=("published", "ours", "apart", "verdict"),
            rows=tuple(lines),
            notes=tuple(self._notes(content, table, row, scores, marks, is_missing)),
        )

    def _verdict(self, table: Table, published: float, cell: Ours) -> str:
        if cell.value is None or cell.why:
            return cell.why
        is_rank = table["kind"] == "ranks"
        reach = self.rank_tolerance if is_rank else self.tolerance
        low, high = cell.value.low, cell.value.high
        if low != low or high != high:  # it has no interval
            low = high = cell.value.mean
        return _WITHIN if low - reach <= published <= high + reach else _OUTSIDE

    def _notes(
        self,
        content: Published,
        table: Table,
        row: Row,
        scores: Scores,
        marks: Mapping[str, str],
        is_missing: bool,
    ) -> Iterator[str]:
        yield f"Source: {row['source']}. Status: {row['status']}."
        for column in (*marks, *([""] if "" in row["notes"] else [])):
            note = row["notes"][column]
            yield f"{marks.get(column, '').strip()} {note}".strip()
        yield scores.provenance(table, row)
        if not is_missing:
            return
        needs = "; ".join(content["needs"][name] for name in row["needs"])
        hours = row["flops"] / self.device_flops / 3600
        yield f"Missing: {needs}; at most {row['flops']:.2g} FLOPs, {hours:,.1f} hours."
        for name in row["commands"]:
            yield f"$ {content['commands'][name]}"
