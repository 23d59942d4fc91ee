"""What experts score that were not chosen for a task: controls for a choice."""

from collections.abc import Mapping, Sequence

from elm_jax.evaluation import controls, estimates, statistics
from elm_jax.runs.report_way import Way

Experts = Mapping[str, Sequence[statistics.Columns]]
"""Results of each training of each single expert."""


def random_expert(experts: Experts, draws: estimates.Draws) -> Way | None:
    """Returns the mean over experts; None if they have not all the same rows."""
    columns = [controls.average(by_expert) for by_expert in _by_training(experts)]
    averages = [average for average in columns if average is not None]
    note = f"the mean over {len(experts)} single experts"
    return _reference(
        "random_expert", note, averages, draws, num_trainings=len(columns)
    )


def elsewhere(
    way: Way,
    chosen: controls.Choice,
    experts: Experts,
    draws: estimates.Draws,
) -> Way | None:
    """Returns what the experts score that were chosen for other datasets.

    Args:
      way: The strategy that chose.
      chosen: What it chose.
      experts: The experts among which it chose.
      draws: How rows are resampled.

    Returns:
      None if it is not told what it chose for every task, for a single dataset, or if
      the experts have not all the same rows.
    """
    if len(chosen) < len(way.rows):
        return None
    chosen_experts = {name: experts[name] for name in sorted({*chosen.values()})}
    columns = [
        controls.elsewhere(chosen, by_expert)
        for by_expert in _by_training(chosen_experts)
    ]
    means = [mean for mean in columns if mean is not None]
    note = f"the mean over the experts that {way.label} chose for other datasets"
    return _reference(
        "shuffled_experts", note, means, draws, num_trainings=len(columns)
    )


def _by_training(experts: Experts) -> list[dict[str, statistics.Columns]]:
    number = min(map(len, experts.values()))
    return [
        {k: trainings[place] for k, trainings in experts.items()}
        for place in range(number)
    ]


def _reference(
    label: str,
    note: str,
    columns: Sequence[statistics.Columns],
    draws: estimates.Draws,
    *,
    num_trainings: int,
) -> Way | None:
    """Returns a way that is only for comparison; None if a training is missing."""
    if len(columns) < num_trainings:
        return None
    return Way(
        label=label,
        note=note,
        columns=columns,
        score=estimates.estimate(columns, draws, who=label),
        is_whole=True,
        is_reference=True,
    )
