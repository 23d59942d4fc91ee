"""A report's maps: experts on tasks, beside baselines and strategies."""

import dataclasses
from collections.abc import Sequence

from elm_jax.evaluation import results
from elm_jax.reporting import marks, report
from elm_jax.runs import report_votes
from elm_jax.runs.report_ways import Ways


def make(
    rows: Sequence[results.ResultRow],
    *,
    title: str,
    votes: report_votes.ShownVotes,
    ways: Ways | None = None,
) -> report.HeatMap:
    """Returns the map of some tasks.

    Args:
      rows: Rows of one split and metric.
      title: What is shown.
      votes: The experts that a strategy chose, and which one it was.
      ways: What was compared on these rows; None if nothing was.
    """
    heat_map = report.heat_map(
        rows, title=title, chosen=votes.winners, chosen_by=votes.chosen_by
    )
    if ways is None:
        return heat_map
    places = {task: place for place, task in enumerate(heat_map.tasks)}
    references, letters = [], dict(heat_map.marks)
    shown = [way for way in ways.all if way.rows and way.label != "base"]
    for way in shown:
        by_task = {row.task: row for row in way.rows if row.task in places}
        values = tuple(
            by_task[task].value if task in by_task else None for task in places
        )
        references.append(report.Reference(way.label, values, way.is_bound))
        for task, row in by_task.items():
            letters[way.label, places[task]] = marks.of_scores([row])
    legend = list(heat_map.legend)
    explained = {sentence[0] for sentence in legend}
    more = marks.legend([row for way in shown for row in way.rows])
    if any(heat_map.is_part(reference.values) for reference in references):
        more += (marks.PART_LEGEND,)
    legend += [sentence for sentence in more if sentence[0] not in explained]
    return dataclasses.replace(
        heat_map, references=tuple(references), marks=letters, legend=tuple(legend)
    )
