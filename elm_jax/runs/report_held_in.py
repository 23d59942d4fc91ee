"""The table of scores on tasks that experts were trained on beside those on others."""

from collections.abc import Sequence

from elm_jax.evaluation import controls, estimates, results
from elm_jax.reporting import report
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.report_way import Rows
from elm_jax.runs.report_ways import Ways


def table(
    ways: Ways, reported: ComparableRows, seen: Rows
) -> tuple[report.Figures, ...]:
    """Returns the table, or nothing where no row is of a task that was trained on.

    Args:
      ways: What the main table compares, on unseen tasks.
      reported: Has the results of rows.
      seen: Rows of the tasks that experts were trained on, of one metric.
    """
    tasks = {row.task for row in seen}
    lines: list[tuple[str, tuple[report.Figure, ...]]] = []
    for way in ways.all:
        own = [row for row in seen if way.rows and row.expert == way.label]
        if own and way.role and {row.task for row in own} == tasks:
            held_in = _score(reported, own, ways.draws, way.label)
            held_out = way.whole and way.whole.interval
            lines.append((way.label, (held_in, held_out, f"{len(own)}")))
    for kind in sorted({row.kind for row in seen if row.is_single_expert}):
        own = _own_experts(seen, kind)
        if own:
            label = f"own {kind or 'single'} expert"
            held_in = _score(reported, own, ways.draws, label)
            held_out = _mean_of_kind(ways, kind)
            lines.append((label, (held_in, held_out, f"{len(own)}")))
    if not lines:
        return ()
    made = report.Figures(
        title="Held-in and held-out (percent, means over datasets)",
        columns=("held-in", "held-out", "tasks held in"),
        rows=tuple(lines),
        notes=(
            "held-in: on tasks that experts and the multitask model were trained on,"
            " and rows that they were not. held-out: on the unseen tasks. own expert:"
            " the one that was trained on the task; held-out, the mean over those of"
            " its kind. The two are of different datasets: their distance says nothing"
            " by itself, how it differs between two lines does.",
        ),
    )
    return (made,)


def _own_experts(seen: Rows, kind: str) -> list[results.ResultRow]:
    """Returns the row of the expert that was trained on each task, where it is told.

    It is the only one of its kind that was scored there, or is named like the task or
    its dataset. Tasks without such an expert are left out.
    """
    by_task: dict[str, list[results.ResultRow]] = {}
    for row in seen:
        if row.is_single_expert and row.kind == kind:
            by_task.setdefault(row.task, []).append(row)
    found = []
    for task, rows in by_task.items():
        named = [row for row in rows if row.expert in (task, row.dataset)]
        found += (named if len(rows) > 1 else rows)[:1]
    return found


def _score(
    reported: ComparableRows,
    rows: Sequence[results.ResultRow],
    draws: estimates.Draws,
    who: str,
) -> results.Interval:
    return estimates.estimate(reported.trainings(rows), draws, who=who).interval


def _mean_of_kind(ways: Ways, kind: str) -> results.Interval | None:
    names = {row.expert for row in ways.singles if row.kind == kind}
    own = [columns for name, columns in ways.experts.items() if name in names]
    if not own:
        return None
    means = {str(n): controls.mean_of(columns) for n, columns in enumerate(own)}
    found = controls.average(means)
    if found is None:
        return None
    return estimates.estimate([found], ways.draws, who=kind).interval
