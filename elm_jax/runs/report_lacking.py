"""The controls that a report should have and that were not scored, by name."""

from collections.abc import Iterator

from elm_jax import expert_kinds
from elm_jax.evaluation import row_columns, selection
from elm_jax.runs.report_way import Rows

_TRAINED: tuple[expert_kinds.Role, ...] = ("base", "multitask")
_MEAN = "merged_all"
_OF_A_LIBRARY = (_MEAN, "random_weights")  # kinds of strategies


def controls(rows: Rows, chosen_on: Rows) -> Iterator[str]:
    """Yields a sentence if controls of what is reported were not scored.

    Args:
      rows: The rows of unseen tasks, of the reported split and metric.
      chosen_on: The rows by which experts are chosen.
    """
    columns = row_columns.of(rows)
    roles = {*row_columns.roles(columns).listed()}
    if not roles & {"expert", "strategy"}:
        return
    lacking = [name for name in _TRAINED if name not in roles]
    if "strategy" in roles:
        kinds_and_settings = columns.distinct("strategy", "settings")
        kinds = {kind for kind, _ in kinds_and_settings if kind != _MEAN} | {
            # A merge by another method has settings, and is no control.
            kind
            for kind, settings in kinds_and_settings
            if not settings
        }
        lacking += [name for name in _OF_A_LIBRARY if name not in kinds]
    labelled = {split for (split,) in row_columns.of(chosen_on).distinct("split")}
    is_chosen = len(selection.single_experts(chosen_on)) > 0
    other_splits = labelled - {split for (split,) in columns.distinct("split")}
    if is_chosen and other_splits and "selection" not in roles:
        lacking.append("selection")
    if lacking:
        yield (
            f"Controls that were not scored: {', '.join(lacking)}. Multitask and"
            " selection are trained, as kinds of elm_train; the others are strategies"
            " of elm_eval."
        )
