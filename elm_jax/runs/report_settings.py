"""What choosing among the settings of one strategy is worth, such as the best scale."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax.evaluation import cross_fitting, estimates
from elm_jax.reporting import report
from elm_jax.runs.report_way import Rows, Way


class SettingsGroup(NamedTuple):
    """Ways that differ in the settings of one kind of strategy alone.

    Attributes:
      kind: The kind of strategy, such as `merged_top_k`.
      ways: Two or more, all scored on the same rows.
      cross_fitted: What choosing among them is worth.
    """

    kind: str
    ways: tuple[Way, ...]
    cross_fitted: cross_fitting.CrossFitted


def of(ways: Sequence[Way], draws: estimates.Draws) -> Iterator[SettingsGroup]:
    """Yields the groups of ways that differ in settings alone."""
    kinds: dict[str, list[Way]] = {}
    for way in ways:
        strategies = {row.strategy for row in way.rows}
        kind = strategies.pop() if len(strategies) == 1 else ""
        if way.role == "strategy" and way.whole is not None and kind:
            kinds.setdefault(kind, []).append(way)
    for kind, same_kind in sorted(kinds.items()):
        if (
            len(same_kind) < 2
            or len({way.whole and way.whole.rows for way in same_kind}) > 1
        ):
            continue
        columns = {way.label: way.columns for way in same_kind}
        # Settings of one strategy score the same trainings.
        fitted = cross_fitting.cross_fit(columns, draws, shared=kind)
        if fitted is not None:
            yield SettingsGroup(kind, tuple(same_kind), fitted)


def view(settings: SettingsGroup) -> Way:
    """Returns the way to choose one setting for all tasks, cross-fitted."""
    chosen = settings.cross_fitted.best_single
    return Way(
        label=f"{settings.kind}_crossfit",
        note=f"the best of {len(settings.ways)} settings of {settings.kind}, chosen on"
        " one half of these rows and reported on the other, and the other way round",
        columns=chosen.columns,
        score=chosen.estimate,
        is_whole=True,
    )


def table(
    settings: Sequence[SettingsGroup], chosen_on: Rows, *, chosen_here: bool
) -> report.Figures | None:
    """Returns what choosing settings is worth, a line for each kind of strategy.

    Args:
      settings: The groups.
      chosen_on: Rows by which settings may be chosen.
      chosen_here: Whether these are the rows that are reported.
    """
    if not settings:
        return None
    rows: list[tuple[str, tuple[report.Figure, ...]]] = []
    for group in settings:
        scores = {way.label: way.whole for way in group.ways if way.whole is not None}
        bound = max(score.mean for score in scores.values())
        fitted = group.cross_fitted.best_single
        on_other_split = None
        if not chosen_here and (best := _best(chosen_on, scores)):
            on_other_split = scores[best].interval
        counts = ", ".join(f"{number} {name}" for name, number in fitted.counts[:2])
        rows.append(
            (
                f"{len(scores)} of {group.kind}",
                (
                    *(bound, fitted.estimate.interval, bound - fitted.estimate.mean),
                    *(on_other_split, counts),
                    group.cross_fitted.best_per_prompt.estimate.interval,
                ),
            )
        )
    return report.Figures(
        title="What choosing among settings is worth (percent)",
        columns=(
            *("chosen here", "cross-fitted", "optimism", "chosen elsewhere"),
            *("folds that chose", "one for each prompt"),
        ),
        rows=tuple(rows),
        notes=(
            "One setting, such as a scale or a number of experts, for all tasks, as in"
            " the table of choosing among experts. one for each prompt: cross-fitted,"
            " too.",
        ),
    )


def _best(rows: Rows, labels: dict[str, estimates.Estimate]) -> str:
    """Returns the label with the best mean over datasets; "" if a way lacks tasks."""
    by_label: dict[str, dict[str, dict[str, float]]] = {label: {} for label in labels}
    for row in rows:
        if row.expert in by_label:
            by_label[row.expert].setdefault(row.dataset, {})[row.task] = row.value
    tasks = {
        tuple(
            (name, *sorted(task_values))
            for name, task_values in sorted(by_dataset.items())
        )
        for by_dataset in by_label.values()
    }
    if len(tasks) != 1 or tasks == {()}:
        return ""
    means = {
        label: float(
            np.mean(
                [
                    np.mean([*task_values.values()])
                    for task_values in by_dataset.values()
                ]
            )
        )
        for label, by_dataset in by_label.items()
    }
    return max(sorted(means), key=lambda label: means[label])
