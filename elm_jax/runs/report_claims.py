"""The claims that a report judges, and why some are not."""

import dataclasses
from collections.abc import Iterator, Sequence

from elm_jax.evaluation import claims, estimates, results, row_columns
from elm_jax.runs import report_rows
from elm_jax.runs.comparable_rows import ComparableRows
from elm_jax.runs.report_ways import Ways

_EXPERTS, _MERGING = "experts against the multitask model", "merging"
_RETRIEVED = "retrieved"  # the paper's strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """Whose rows decide the claims.

    Attributes:
      strategy: The one that is compared with the multitask model.
      merged: The merge that should beat its parts; "" for none.
      parts: Names of these parts.
    """

    strategy: str
    merged: str = ""
    parts: tuple[str, ...] = ()

    @property
    def merging(self) -> tuple[str, ...]:
        """The names of the merge and of its parts, as far as there are any."""
        return tuple(filter(None, (self.merged, *self.parts)))


def silent(
    judged: Judged,
    rows: Sequence[results.ResultRow],
    composed: Sequence[results.ResultRow],
) -> Iterator[str]:
    """Yields why claims that the rows of an expert call for are not judged.

    Args:
      judged: Whose rows decide.
      rows: The rows of unseen tasks.
      composed: The rows of composed tasks.
    """
    baselines = {row.expert for row in _first_of_each(rows) if row.role == "multitask"}
    baseline = baselines.pop() if len(baselines) == 1 else "multitask"
    names = {_EXPERTS: (baseline, judged.strategy), _MERGING: judged.merging}
    with_rows = {
        _EXPERTS: {row.expert for row in _first_of_each(rows)},
        _MERGING: {row.expert for row in _first_of_each(composed)},
    }
    called_for = {
        subject: experts
        for subject, experts in names.items()
        if any(name.startswith(experts) for name in with_rows[subject])
    }
    yield from report_rows.lacking_claims(called_for, with_rows)


def judged_by_default(rows: Sequence[results.ResultRow]) -> str:
    """Returns the strategy that is judged where nobody has named one.

    It is the paper's, or the only one that chose one expert for each task. It depends
    on no score, and on no order of the rows.

    Args:
      rows: The rows of unseen tasks.

    Returns:
      The strategy's name; words for what is lacking, where there is none or several.
    """
    columns = row_columns.of(rows)
    of_strategies = columns.take(row_columns.roles(columns).are("strategy".__eq__))
    choosing: dict[str, bool] = {}
    for row in of_strategies:
        choosing[row.expert] = choosing.get(row.expert, True) and row.is_choice
    names = sorted(name for name, chooses in choosing.items() if chooses)
    if _RETRIEVED in names:
        return _RETRIEVED
    if len(names) > 1:
        return f"judged_by, which names one of {report_rows.listed(names)}"
    return names[0] if names else "a strategy that chooses one expert for each task"


def of_experts(judged: Judged, ways: Ways) -> Iterator[results.Claim]:
    """Yields the claim that experts beat the multitask model, if rows can tell."""
    multitask, strategy = ways.of_role("multitask"), ways.by_label(judged.strategy)
    if not (multitask and strategy and multitask.whole and strategy.whole):
        return
    experts = {judged.strategy: strategy.whole}
    best = ways.by_label("best_single")
    if best is not None and best.whole is not None and not best.is_bound:
        experts[f"best single ({best.note.partition(',')[0]})"] = best.whole
    fitted = ways.by_label("best_single_crossfit")
    if fitted is not None and fitted.whole is not None:
        experts["best single (cross-fitted)"] = fitted.whole
    yield claims.experts_against_multitask(
        experts, multitask.whole, judged_by=judged.strategy
    )


def of_merging(
    judged: Judged,
    reported: ComparableRows,
    composed: Sequence[results.ResultRow],
    *,
    metric: str,
) -> Iterator[results.Claim]:
    """Yields the claim that a merge beats its parts, if rows of all are there."""
    scores = _scores(reported, composed, merged=judged.merged)
    if {judged.merged, *judged.parts} <= scores.keys():
        parts = {name: scores[name] for name in judged.parts}
        yield claims.merge_beats_parts(scores[judged.merged], parts, metric=metric)


def _scores(
    reported: ComparableRows, rows: Sequence[results.ResultRow], *, merged: str
) -> dict[str, estimates.Estimate]:
    """Returns the score of every expert and strategy.

    The merge of a seed is made of the parts of this seed, so that all of them share the
    errors of trainings: a difference is that of each seed.
    """
    draws = estimates.Draws()
    by_expert = row_columns.of(rows).split("expert")
    trainings = {
        name: reported.trainings(expert_rows) for name, expert_rows in by_expert.items()
    }
    number = len(trainings.get(merged, ()))
    return {
        name: estimates.estimate(
            columns, draws, who=merged if 1 < number == len(columns) else name
        )
        for name, columns in trainings.items()
    }


def _first_of_each(rows: Sequence[results.ResultRow]) -> Iterator[results.ResultRow]:
    """Yields a row of each name and kind."""
    columns = row_columns.of(rows)
    yield from columns.take(columns.groups("expert", "kind").firsts)
