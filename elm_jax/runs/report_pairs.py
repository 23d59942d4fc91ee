"""What a page needs to compare any two models of a report's main table."""

from collections.abc import Iterator, Mapping

import numpy as np

from elm_jax.evaluation import compact_columns, controls, statistics
from elm_jax.reporting import pairs, report
from elm_jax.runs.report_figures import BASELINES
from elm_jax.runs.report_ways import Ways


def make(ways: Ways, shown: report.HeatMap, *, judged_by: str) -> pairs.Pairs | None:
    """Returns answers of all ways that rows tell of, and of the map's experts.

    Views without rows of their own, such as cross-fitted ones, are left out: each of
    their resamples chooses again, which answers alone cannot tell.

    Args:
      ways: All of them.
      shown: The map of the same experts, best mean first.
      judged_by: The way that is compared when the page opens, with the multitask model
        or the base; others stand in for what is not there.

    Returns:
      None for less than two models.
    """
    ways_with_rows = [way for way in ways.all if way.rows]
    columns = [way.mean for way in ways_with_rows]
    experts = {name: controls.mean_of(ways.experts[name]) for name in shown.experts}
    ids: dict[statistics.Key, np.ndarray] = {}
    for scores in (*columns, *experts.values()):
        for key in scores.keys() - ids.keys():
            ids[key] = np.sort(compact_columns.ids_of(scores, key))
    models = [
        pairs.Model(
            way.label,
            _Answers(mean, ids),
            is_bound=way.is_bound,
            num_trainings=len(way.columns),
        )
        for way, mean in zip(ways_with_rows, columns, strict=True)
    ]
    models += [
        pairs.Model(
            name,
            _Answers(mean, ids),
            is_expert=True,
            num_trainings=len(ways.experts[name]),
        )
        for name, mean in experts.items()
    ]
    if len(models) < 2:
        return None
    labels = [model.label for model in models]
    baselines = [way.label for role in BASELINES if (way := ways.of_role(role))]
    preferred = [label for label in (judged_by, *baselines, *labels) if label in labels]
    first, second, *_ = dict.fromkeys(preferred)
    prompts = dict(ways.rows.distinct("task", "prompt"))
    return pairs.Pairs(
        tasks=tuple(
            pairs.Task(dataset, prompts[task], task, ids[dataset, task])
            for dataset, task in sorted(ids)
        ),
        models=tuple(models),
        first=first,
        second=second,
    )


class _Answers(Mapping[statistics.Key, np.ndarray]):
    """Scores in the order of ids, made when asked for; none of tasks of other rows."""

    def __init__(
        self, columns: statistics.Columns, ids: Mapping[statistics.Key, np.ndarray]
    ) -> None:
        self._columns = columns
        self._orders: dict[statistics.Key, np.ndarray | None] = {}
        for key in columns:
            unsorted = compact_columns.ids_of(columns, key)
            if np.array_equal(unsorted, ids[key]):
                self._orders[key] = None
                continue
            order = np.argsort(unsorted, kind="stable")
            if np.array_equal(unsorted[order], ids[key]):
                self._orders[key] = order

    def __getitem__(self, key: statistics.Key) -> np.ndarray:
        order, values = self._orders[key], self._columns[key].values
        return values if order is None else values[order]

    def __iter__(self) -> Iterator[statistics.Key]:
        return iter(self._orders)

    def __len__(self) -> int:
        return len(self._orders)

    def __contains__(self, key: object) -> bool:
        return key in self._orders
