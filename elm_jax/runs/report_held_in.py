"""The table of scores on tasks that experts were trained on beside those on others."""

from collections.abc import Sequence

from elm_jax.checkpoints import manifest
from elm_jax.evaluation import controls, estimates, results
from elm_jax.reporting import report
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.report_way import Rows
from elm_jax.runs.report_ways import Ways


def table(
    ways: Ways, reported: ComparableRows, seen_rows: Rows
) -> tuple[report.Figures, ...]:
    """Returns the table, or nothing where no row is of a task that was trained on.

    Args:
      ways: What the main table compares, on unseen tasks.
      reported: Has the results of rows.
      seen_rows: Rows of the tasks that experts were trained on, of one metric.
    """
    tasks = {row.task for row in seen_rows}
    lines: list[tuple[str, tuple[report.Figure, ...]]] = []
    for way in ways.all:
        rows = [row for row in seen_rows if way.rows and row.expert == way.label]
        if rows and way.role and {row.task for row in rows} == tasks:
            held_in = _score(reported, rows, ways.draws, way.label)
            held_out = way.whole and way.whole.interval
            lines.append((way.label, (held_in, held_out, f"{len(rows)}")))
    for kind in sorted({row.kind for row in seen_rows if row.is_single_expert}):
        rows = _own_experts(reported, seen_rows, kind)
        if rows:
            label = f"own {kind or 'single'} expert"
            held_in = _score(reported, rows, ways.draws, label)
            held_out = _mean_of_kind(ways, kind)
            lines.append((label, (held_in, held_out, f"{len(rows)}")))
    if not lines:
        return ()
    figures = report.Figures(
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
    return (figures,)


def _own_experts(
    reported: ComparableRows, seen_rows: Rows, kind: str
) -> list[results.ResultRow]:
    """Returns the row of the expert that was trained on each task, where it is known.

    The expert's manifest tells it. If the expert is no longer in its folder, its name
    does, where that is the name of the task or of its dataset. Of several experts, one
    with such a name comes first, and then the one of the fewest tasks. Tasks without
    an expert are left out.
    """
    best: dict[str, tuple[tuple[bool, int], results.ResultRow]] = {}
    tasks_of: dict[str, tuple[str, ...]] = {}
    for row in seen_rows:
        if not row.is_single_expert or row.kind != kind:
            continue
        is_named = row.expert in (row.task, row.dataset)
        if row.expert not in tasks_of:
            tasks_of[row.expert] = _tasks(reported, row)
        tasks = tasks_of[row.expert]
        if row.task not in tasks if tasks else not is_named:
            continue
        order = (not is_named, len(tasks))
        if row.task not in best or order < best[row.task][0]:
            best[row.task] = order, row
    return [row for _, row in best.values()]


def _tasks(reported: ComparableRows, row: results.ResultRow) -> tuple[str, ...]:
    """Returns the tasks that an expert was trained on; none if not known."""
    for training in reported.behind(row):
        folder = reported.folder(training)
        if folder is not None:
            return manifest.read_manifest(folder).tasks
    return ()


def _score(
    reported: ComparableRows,
    rows: Sequence[results.ResultRow],
    draws: estimates.Draws,
    who: str,
) -> results.Interval:
    return estimates.estimate(reported.trainings(rows), draws, who=who).interval


def _mean_of_kind(ways: Ways, kind: str) -> results.Interval | None:
    names = {row.expert for row in ways.singles if row.kind == kind}
    of_kind = [columns for name, columns in ways.experts.items() if name in names]
    if not of_kind:
        return None
    means = {str(n): controls.mean_of(columns) for n, columns in enumerate(of_kind)}
    average = controls.average(means)
    if average is None:
        return None
    return estimates.estimate([average], ways.draws, who=kind).interval
