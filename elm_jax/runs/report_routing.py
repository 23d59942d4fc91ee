"""Pages beside a report: where routers sent the tokens of a task."""

import dataclasses
import pathlib
import posixpath
import urllib.parse
from collections.abc import Collection

from elm_jax.disk import files
from elm_jax.evaluation import result_store, results
from elm_jax.reporting import report, routing_page
from elm_jax.runs import routing_traces
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.report_ways import Ways

FOLDER = "routing"


class Pages:
    """A page for each task of which scores have traces; of trainings the first.

    Args:
      ways: Of the main table.
      reported: Has the rows of their trainings.

    Raises:
      DataError: A per-example file is missing or altered, or holds no trace.
    """

    def __init__(self, ways: Ways, reported: ComparableRows) -> None:
        self._pages: dict[str, list[tuple[results.ResultRow, routing_page.Routed]]] = {}
        for way in ways.all:
            for row in way.rows:
                if way.role and row.strategy == "routed_tokens":
                    first_row = reported.behind(row)[0]
                    routed = _routed(way.label, first_row, reported.store)
                    if routed is not None:
                        self._pages.setdefault(row.task, []).append((first_row, routed))

    @property
    def names(self) -> Collection[str]:
        """Names of their files."""
        return {*map(_file_name, self._pages)}

    def linked(self, page: report.Report) -> report.Report:
        """Returns a report that links to these pages."""
        if not self._pages:
            return page
        sentence = f"where the tokens of {len(self._pages)} tasks went is in {FOLDER}/"
        return dataclasses.replace(page, details=(*page.details, ("routing", sentence)))

    def write(self, report_path: pathlib.Path) -> list[pathlib.Path]:
        """Writes the pages beside a report; returns their folder, if there are any.

        Raises:
          ConfigError: A file cannot be written.
        """
        folder = report_path.parent / FOLDER
        for task, task_pages in self._pages.items():
            row = task_pages[0][0]
            page = routing_page.Page(
                task=task,
                split=row.split,
                metric=row.metric,
                routers=tuple(routed for _, routed in task_pages),
                report=posixpath.join("..", urllib.parse.quote(report_path.name)),
            )
            files.write_text(folder / _file_name(task), routing_page.render(page))
        return [folder] if self._pages else []


def _file_name(task: str) -> str:
    return f"{task}.html"


def _routed(
    label: str, row: results.ResultRow, store: result_store.ResultStore
) -> routing_page.Routed | None:
    """Returns what was kept with a row's scores; None if that is nothing."""
    array = store.per_example(row).get(routing_traces.ARRAY)
    if array is None:
        return None
    trace = routing_traces.read(array)
    return routing_page.Routed(
        label=label,
        score=row.value,
        num_rows=trace.num_rows,
        experts=trace.experts,
        places=trace.places,
        weights=trace.weights.tolist(),
        inputs=tuple(
            tuple(zip(pieces, weights.tolist(), strict=True))
            for pieces, weights in zip(trace.pieces, trace.of_pieces, strict=True)
        ),
    )
