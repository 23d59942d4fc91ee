"""Ranks pairs of experts by forecast and by what a merge costs; prints one JSON line.

Usage: python tests/benchmarks/merge_forecast_benchmark.py FOLDER
         [--experts=dataset_experts] [--num_rows=60]

FOLDER is a finished world of the quickstart. Each pair of its experts whose tasks have
answer choices is merged by the mean, and scored on rows of validation of both experts'
own tasks: the loss is the mean of both experts' own scores less the merge's, in points.
Printed are Spearman's rank correlations of the loss with the forecast of
`compare.Compare` and with what else it tells, each with a 95 % interval of resampled
experts.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
import time

import numpy as np
from scipy import stats

from elm_jax import paths
from elm_jax.merging import averages
from elm_jax.runs import compare, loaded, search_problems, search_rows, task_data
from tasks import pocket

assert pocket  # it registers the tasks

DATA = task_data.TaskData(
    vocabulary_path="{PACKAGE}/tasks/pocket_world/pocket.model",
    feature_lengths={"inputs": 48, "targets": 12},
)


def losses(folders, base, data, num_rows):
    """Returns points lost [experts, experts] by means of two, NaN on the diagonal."""
    rows = search_rows.Rows(tasks=("pocket_composed",), num_rows=num_rows)
    of_first = search_problems.Problem.of(
        averages.Uniform(), folders[:1], base, rows, data, None
    )
    tasks_of = {f: loaded.Expert.load(f).manifest.tasks for f in folders}

    def score(folders, tasks):
        parts = search_rows.open_rows(dataclasses.replace(rows, tasks=tasks), data)
        problem = dataclasses.replace(of_first, folders=folders, parts=parts)
        return problem.score(averages.Uniform())

    alone = {folder: score([folder], tasks_of[folder]) for folder in folders}
    points_lost = np.full((len(folders), len(folders)), np.nan)
    for i, j in itertools.combinations(range(len(folders)), 2):
        pair = folders[i], folders[j]
        lost = [alone[f] - score([*pair], tasks_of[f]) for f in pair]
        points_lost[i, j] = points_lost[j, i] = np.mean(lost)
    return points_lost


def correlation(predicted, lost):
    """Returns Spearman's rank correlation over pairs, and its interval."""
    upper = [*itertools.combinations(range(len(lost)), 2)]

    def of(pairs):
        both = [(predicted[p], lost[p]) for p in pairs if np.isfinite(predicted[p])]
        if len({*both}) < 2:  # noqa: PLR2004 - of one pair there is no order
            return np.nan
        return float(stats.spearmanr(*zip(*both, strict=True)).statistic)

    rng, drawn = np.random.default_rng(0), []
    for _ in range(1000):
        chosen = rng.integers(len(lost), size=len(lost))
        pairs = [tuple(p) for p in itertools.combinations(chosen, 2)]
        drawn.append(of([p for p in pairs if p[0] != p[1]]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return [round(value, 3) for value in (of(upper), float(low), float(high))]


def main(arguments):
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--experts", default="dataset_experts")
    parser.add_argument("--num_rows", type=int, default=60)
    options = parser.parse_args(arguments)
    begun = time.process_time()
    place = {"{MODEL_DIR}": f"{options.folder}", "{PACKAGE}": f"{paths.PACKAGE}"}
    data = DATA.opened(lambda text: paths.fill(text, place))
    base = loaded.Base.load(options.folder / "base")
    every = sorted((options.folder / options.experts).iterdir())
    folders = [
        folder
        for folder in every
        if all(
            data.open(task, "validation").has_choices
            for task in loaded.Expert.load(folder).manifest.tasks
        )
    ]
    comparison = compare.of_experts([loaded.Expert.load(f) for f in folders], base)
    lost = losses(folders, base, data, options.num_rows)
    forecasts = {
        "forecast": comparison.forecast,
        "minus_cosine": -comparison.cosine,
        "conflict": comparison.mean("conflict"),
        "overlap": comparison.mean("overlap"),
    }
    defined = lost[np.isfinite(lost)]
    line = {
        "experts": [folder.name for folder in folders],
        "rows_per_task": options.num_rows,
        "mean_loss": round(float(defined.mean()), 2),
        "greatest_loss": round(float(defined.max()), 2),
        "rank_correlation": {n: correlation(v, lost) for n, v in forecasts.items()},
        "cpu_secs": round(time.process_time() - begun),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
