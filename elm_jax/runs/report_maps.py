"""A report's maps: experts on tasks, beside baselines and strategies."""

import dataclasses
from collections.abc import Mapping, Sequence

from elm_jax.evaluation import results
from elm_jax.reporting import marks, report
from elm_jax.runs.report_ways import Ways


def make(
    rows: Sequence[results.ResultRow],
    *,
    title: str,
    won: Mapping[str, str],
    ways: Ways | None = None,
) -> report.HeatMap:
    """Returns the map of some tasks.

    Args:
      rows: Of one split and metric.
      title: What is shown.
      won: The expert that retrieval chose, by task.
      ways: What was compared on these rows; None if nothing was.
    """
    found = report.heat_map(rows, title=title, retrieved=won)
    if ways is None:
        return found
    places = {task: place for place, task in enumerate(found.tasks)}
    references, letters = [], dict(found.marks)
    shown = [way for way in ways.all if way.rows and way.label != "base"]
    for way in shown:
        own = {row.task: row for row in way.rows if row.task in places}
        values = tuple(own[task].value if task in own else None for task in places)
        references.append(report.Reference(way.label, values, way.is_bound))
        for task, row in own.items():
            letters[way.label, places[task]] = marks.of_scores([row])
    legend = list(found.legend)
    known = {sentence[0] for sentence in legend}
    more = marks.legend([row for way in shown for row in way.rows])
    if any(found.is_part(one.values) for one in references):
        more += (marks.PART_LEGEND,)
    legend += [sentence for sentence in more if sentence[0] not in known]
    return dataclasses.replace(
        found, references=tuple(references), marks=letters, legend=tuple(legend)
    )
