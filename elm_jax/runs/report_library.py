"""The table of a library: its experts, and how well a strategy chooses from them."""

from collections.abc import Iterator, Sequence

import numpy as np

from elm_jax.evaluation import controls, estimates, results, row_columns
from elm_jax.reporting import report, text
from elm_jax.runs.report_way import Way
from elm_jax.runs.report_ways import Ways

_Lines = Iterator[tuple[str, tuple[report.Figure, ...]]]
_QUARTILES = (0, 0.25, 0.5, 0.75, 1)


def means(rows: Sequence[results.ResultRow]) -> list[float]:
    """Returns the mean over datasets of means over prompts of each expert."""
    columns = row_columns.of(rows)
    values = columns.coded("value").array()
    groups = columns.groups("expert", "dataset")
    means = np.array([values[members].mean() for members in groups.members()])
    by_expert = columns.take(groups.firsts).groups("expert")
    return [float(means[members].mean()) for members in by_expert.members()]


def table(ways: Ways, chooser: Way | None) -> report.Figures | None:
    """Returns the table of the library and a strategy that chose from it, if any."""
    expert_means = means(ways.singles)
    if ways.cross_fitted is None or len(expert_means) < 2:
        return None
    lowest, lower, median, upper, highest = np.quantile(expert_means, _QUARTILES)
    rows: list[tuple[str, tuple[report.Figure, ...]]] = [
        ("experts", (str(len(expert_means)),)),
        ("random expert", (float(np.mean(expert_means)),)),
        ("lowest to highest", (f"{_to(lowest, highest)}",)),
        ("quartiles", (f"{_to(lower, median, upper)}",)),
        *(_retrieval(ways, chooser) if chooser else ()),
    ]
    chooser_name = chooser.label if chooser and len(ways.choosing) > 1 else "retrieval"
    return report.Figures(
        title=f"The library, and how well {chooser_name} chooses from it",
        columns=("",),
        rows=tuple(rows),
        notes=(
            "Means over unseen datasets, in percent; regret in points. The oracle is"
            " chosen on these rows: the regret to it is too great; the cross-fitted one"
            " is to the best expert of each prompt, chosen on other folds.",
            *(_CONTROLS if chooser else ()),
        ),
    )


_CONTROLS = (
    "these: the experts that may be chosen, each on all datasets. A random one for each"
    " dataset, and the choices shuffled between datasets: mean, and the range of 95 %"
    " of 10,000 draws (of all permutations, where these are fewer).",
    "by chance: the share of draws that score at least as much. A choice that fits its"
    " dataset scores more than the same choices shuffled; one that is good everywhere"
    " scores the same. There, shuffled or not, each prompt gets the mean over what was"
    " chosen for the prompts of a dataset.",
)


def _retrieval(ways: Ways, way: Way) -> _Lines:
    score, chosen, library = way.whole, ways.chosen(way), ways.library(way)
    if score is None:
        return
    scores: dict[str, dict[tuple[str, str], float]] = {
        name: {} for name in sorted(name for (name,) in library.distinct("expert"))
    }
    columns = (
        library.coded(n).listed() for n in ("expert", "dataset", "task", "value")
    )
    for name, dataset, task, value in zip(*columns, strict=True):
        scores[name][dataset, task] = value
    kinds = " and ".join(sorted({k or "unknown" for (k,) in library.distinct("kind")}))
    yield "retrieved from", (f"{len(scores)} of kind {kinds}",)
    if len(chosen) == len(way.rows):
        ranks = controls.rank(chosen, scores)
        yield "mean rank of retrieved", (f"{ranks.mean:.1f} of {ranks.num_experts}",)
        yield "rank of a random one", (ranks.of_random,)
        yield "a best one retrieved", (f"{ranks.best} of {ranks.num_tasks} prompts",)
        yield from _by_chance(chosen, scores, means(library))
    best = {
        key: max(by_task[key] for by_task in scores.values()) for key in _keys(scores)
    }
    by_dataset: dict[str, list[float]] = {}
    for (dataset, _), value in best.items():
        by_dataset.setdefault(dataset, []).append(value)
    oracle = float(np.mean([np.mean(values) for values in by_dataset.values()]))
    yield "oracle of these", (oracle,)
    yield "regret to this oracle", (oracle - score.mean,)
    fitted = ways.library_cross_fitted(way)
    if fitted is not None:
        gap: estimates.Estimate = fitted.best_per_prompt.estimate - score
        yield "regret, cross-fitted", (report.Signed(gap.interval),)


def _by_chance(
    chosen: controls.Choice, scores: controls.Scores, of_library: Sequence[float]
) -> _Lines:
    """Yields how a choice compares with random choices."""
    drawn = controls.random_experts(chosen, scores)
    quartiles = np.quantile(of_library, _QUARTILES[1:4])
    below = sum(mean < drawn.score for mean in of_library)
    yield "random one of these", (float(np.mean(of_library)),)
    yield "quartiles of these", (_to(*quartiles),)
    yield "these below retrieved", (f"{below} of {len(of_library)}",)
    yield "random for each dataset", (_range(drawn),)
    yield "as good by chance", (text.p_value(drawn.p_value),)
    shuffled = controls.shuffled(chosen, scores)
    if shuffled is not None:
        yield "shuffled between datasets", (_range(shuffled),)
        yield "the same, not shuffled", (shuffled.score,)
        yield "such a fit by chance", (text.p_value(shuffled.p_value),)


def _keys(scores: controls.Scores) -> list[tuple[str, str]]:
    return sorted(next(iter(scores.values())))


def _range(drawn: controls.Drawn) -> str:
    return f"{text.number(drawn.mean)} ({_to(drawn.low, drawn.high)})"


def _to(*values: float) -> str:
    return " to ".join(text.number(float(value)) for value in values)
