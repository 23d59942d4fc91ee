"""What a report should show and its rows lack, a sentence each."""

from collections.abc import Collection

from elm_jax.evaluation import row_columns
from elm_jax.runs import report_claims, report_lacking, report_rows
from elm_jax.runs.comparable_rows import ComparableRows


def of(
    reported: ComparableRows,
    judged: report_claims.Judged,
    *,
    other_votes: Collection[str],
) -> tuple[str, ...]:
    """Returns the gaps.

    Args:
      reported: The rows, with what is shown of them.
      judged: Whose rows decide the claims.
      other_votes: Tasks whose votes are for others than what was scored.

    Raises:
      DataError: No row is of the unseen tasks, or rows that stand side by side are of
        other data or examples.
    """
    shown = reported.shown
    unseen = shown.tables["Unseen"]
    report_rows.check(
        reported.newest,
        unseen,
        split=shown.split,
        metrics=shown.metrics,
        path=reported.store.path,
    )
    main = next(iter(shown.metrics))
    rows = reported.of(unseen, split=shown.split, metric=main)
    chosen_on = reported.of(unseen, split=shown.selection_split, metric=main)
    composed = reported.of(shown.tables["Composed"], split=shown.split, metric=main)
    all_tasks = [task for names in shown.tables.values() for task in names]
    for metric in shown.metrics:
        report_rows.check_same_data(
            reported.of(all_tasks, split=shown.split, metric=metric)
        )
    report_rows.check_same_data(chosen_on)
    # Single experts are chosen from, whatever their split.
    is_compared = row_columns.are_single_experts(reported.all)
    is_compared |= reported.all.coded("split").are(shown.split.__eq__)
    report_rows.check_same_examples(reported.all.take(is_compared))
    return (
        *report_rows.tasks_without_rows(
            reported.all, shown.tables, split=shown.split, metrics=shown.metrics
        ),
        *report_rows.unequal(rows, chosen_on),
        *reported.doubts(),
        *report_rows.other_votes(other_votes),
        *report_claims.silent(judged, rows, composed),
        *report_lacking.controls(rows, chosen_on),
    )
