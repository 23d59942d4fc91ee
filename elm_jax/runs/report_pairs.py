"""What a page needs to compare any two models of a report's main table."""

from collections.abc import Mapping

import numpy as np

from elm_jax.evaluation import controls, statistics
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
    for one in (*columns, *experts.values()):
        for key in one.keys() - ids.keys():
            ids[key] = np.sort(one[key].example_ids)
    models = [
        pairs.Model(
            way.label,
            _answers(one, ids),
            is_bound=way.is_bound,
            num_trainings=len(way.columns),
        )
        for way, one in zip(ways_with_rows, columns, strict=True)
    ]
    models += [
        pairs.Model(
            name,
            _answers(one, ids),
            is_expert=True,
            num_trainings=len(ways.experts[name]),
        )
        for name, one in experts.items()
    ]
    if len(models) < 2:
        return None
    labels = [model.label for model in models]
    baselines = [way.label for role in BASELINES if (way := ways.of_role(role))]
    wanted = [one for one in (judged_by, *baselines, *labels) if one in labels]
    first, second, *_ = dict.fromkeys(wanted)
    prompts = {row.task: row.prompt for row in ways.rows}
    return pairs.Pairs(
        tasks=tuple(
            pairs.Task(dataset, prompts[task], task, ids[dataset, task])
            for dataset, task in sorted(ids)
        ),
        models=tuple(models),
        first=first,
        second=second,
    )


def _answers(
    one: statistics.Columns, ids: Mapping[statistics.Key, np.ndarray]
) -> dict[statistics.Key, np.ndarray]:
    """Returns scores in the order of ids; none of tasks that have other rows."""
    found = {}
    for key, (own, values) in one.items():
        if np.array_equal(own, ids[key]):
            found[key] = values
            continue
        order = np.argsort(own, kind="stable")
        if np.array_equal(own[order], ids[key]):
            found[key] = values[order]
    return found
