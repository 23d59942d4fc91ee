"""The paper's three claims, judged by result rows.

A claim about a difference holds if the whole interval of the paired difference lies
above zero, fails if it lies below, and is undecided otherwise. From less than three
trainings it is a claim about these trainings (`results.Claim.verdict`).

Reference: arXiv 2302.03202, abstract.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from elm_jax.evaluation import estimates, results, selection


def experts_against_multitask(
    experts: Mapping[str, estimates.Estimate],
    multitask: estimates.Estimate,
    *,
    judged_by: str,
) -> results.Claim:
    """Judges whether experts beat the multitask model on unseen tasks.

    Args:
      experts: Scores on unseen tasks by strategy, such as `retrieved` and
        `best_single`; all are shown.
      multitask: Those of the multitask model.
      judged_by: The strategy whose difference decides; fixed before the results are
        known, so that having several of them makes no claim easier.
    """
    differences = {name: scores - multitask for name, scores in experts.items()}
    gaps = {name: difference.interval for name, difference in differences.items()}
    level = multitask.interval
    parts = [f"{_words(name)} {gap:+.1f} points" for name, gap in gaps.items()]
    return results.Claim(
        title="Experts beat the multitask model on unseen tasks",
        holds=_is_positive(gaps[judged_by]),
        evidence=f"Against multitask ({level:.1f}): {', '.join(parts)}"
        f"; judged by {_words(judged_by)}.",
        num_trainings=differences[judged_by].num_trainings,
    )


def scores_unchanged(
    old_rows: Iterable[results.ResultRow], new_rows: Iterable[results.ResultRow]
) -> results.Claim:
    """Judges whether old scores are the same, byte for byte, after an expert is added.

    Rows are compared as lines of JSON, aside from the name of the run, from where the
    per-example scores lie, and from what they tell of the examples, which is no score
    and new to files of earlier versions.
    They hold the hash of their per-example scores, so one changed bit in one score
    shows.

    Args:
      old_rows: Rows of the old experts, scored before the new one was added.
      new_rows: Rows scored again afterwards; rows of other cells are ignored.
    """
    old = {row.key(row.metric): _line(row) for row in old_rows}
    new = {row.key(row.metric): _line(row) for row in new_rows}
    num_same = sum(line == new.get(key) for key, line in old.items())
    num_lost = sum(key not in new for key in old)
    num_changed = len(old) - num_same - num_lost
    return results.Claim(
        title="Old scores stay the same, byte for byte, after an expert is added",
        holds=False if num_changed else None if num_lost or not old else True,
        evidence=f"{num_same} of {len(old)} result rows are identical;"
        f" {num_changed} differ, {num_lost} were not scored again.",
    )


def expert_added(
    old_rows: Sequence[results.ResultRow], new_rows: Sequence[results.ResultRow]
) -> results.Claim:
    """Judges `scores_unchanged`, and counts the retrievals that the new expert changed.

    Args:
      old_rows: Rows of single experts, and of strategies that choose one for each task;
        other rows are ignored.
      new_rows: Rows scored again afterwards; rows of other cells are ignored.
    """
    scored_again = {(row.expert, row.task, row.split) for row in new_rows}
    old = [row for row in old_rows if (row.expert, row.task, row.split) in scored_again]
    claim = scores_unchanged(selection.single_experts(old), new_rows)
    chosen = [_choices(rows) for rows in (old, new_rows)]
    cells = chosen[0].keys() & chosen[1].keys()
    if not cells:  # rows of release 0.1 do not tell what was retrieved in the same way
        return claim
    tasks = {task for task, *_ in cells}
    changed = {cell[0] for cell in cells if not chosen[1][cell] <= chosen[0][cell]}
    text = f"Of {len(tasks)} old tasks, {len(changed)} now retrieve a new expert."
    return dataclasses.replace(claim, evidence=f"{claim.evidence} {text}")


def _choices(rows: Iterable[results.ResultRow]) -> dict[tuple[str, ...], set[str]]:
    """Returns the fingerprints, of all training seeds, that strategies chose."""
    fingerprints: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        if row.is_choice and row.kind:
            cell = (row.task, row.split, row.expert)
            fingerprints.setdefault(cell, set()).add(row.expert_fingerprint)
    return fingerprints


def merge_beats_parts(
    merged: estimates.Estimate,
    parts: Mapping[str, estimates.Estimate],
    *,
    metric: str,
) -> results.Claim:
    """Judges whether a merged expert beats each of its parts on the composed task.

    It has to beat every part, so testing all of them needs no correction.

    Args:
      merged: Scores of the merge on the composed tasks.
      parts: Those of each expert in it, alone, by name; at least one.
      metric: Name of the metric, for the text.
    """
    differences = {name: merged - part for name, part in parts.items()}
    gaps = {name: difference.interval for name, difference in differences.items()}
    verdicts = [_is_positive(gap) for gap in gaps.values()]
    level = merged.interval
    texts = [f"{gap:+.1f} against {name} alone" for name, gap in gaps.items()]
    return results.Claim(
        title="A merge of two experts beats either alone on the composed task",
        holds=False if False in verdicts else None if None in verdicts else True,
        evidence=f"Merged: {metric} {level:.1f}; {', '.join(texts)}.",
        num_trainings=min(
            difference.num_trainings for difference in differences.values()
        ),
    )


def _words(label: str) -> str:
    return label.replace("_", " ") if label in results.VIEWS else label


def _line(row: results.ResultRow) -> str:
    facts = dataclasses.asdict(results.Facts())
    places = dict.fromkeys(results.PLACE_FIELDS)
    return dataclasses.replace(row, run_id="", **facts, **places).to_json()


def _is_positive(gap: results.Interval) -> bool | None:
    """Returns whether the whole interval is positive; None if it includes zero."""
    if math.isnan(gap.low) or gap.low <= 0.0 <= gap.high:
        return None
    return gap.low > 0.0
