"""Intervals of many experts are those of each by itself."""

import numpy as np
import pytest

from elm_jax.evaluation import estimates, statistics
from elm_jax.runs import card_scores

DRAWS = estimates.Draws(num_resamples=200)
IDS = {"a": np.arange(30)[::-1], "b": np.arange(12), "c": np.arange(1)}


def expert(seed, datasets="ab", lacks=0):
    rng = np.random.default_rng(seed)
    columns = {}
    for dataset in datasets:
        for prompt in range(3):
            ids = IDS[dataset]
            ids = ids[lacks:] if lacks and not prompt else ids
            values = 100.0 * (rng.random(len(ids)) < 0.6)
            columns[dataset, f"{dataset}{prompt}"] = statistics.Column(ids, values)
    return columns


@pytest.mark.parametrize("at_once", [2, 64])
def test_experts_have_the_intervals_of_their_estimates(at_once, monkeypatch):
    monkeypatch.setattr(card_scores, "_EXPERTS_AT_ONCE", at_once)
    experts = {f"e{seed}": [expert(seed)] for seed in range(5)}
    experts["of two trainings"] = [expert(6), expert(7)]
    experts["of fewer rows"] = [expert(8, lacks=2)]
    experts["of one dataset"] = [expert(9, "b")]
    experts["of a single row"] = [expert(10, "bc")]
    by_expert = dict(card_scores.intervals(experts, DRAWS))
    assert by_expert.keys() == experts.keys()
    for name, trainings in experts.items():
        estimate = estimates.estimate(trainings, DRAWS, who=name)
        expected = {
            dataset: estimate.of(dataset).interval for dataset in estimate.datasets
        } | {"": estimate.interval}
        assert by_expert[name].keys() == expected.keys()
        for dataset, interval in expected.items():
            assert by_expert[name][dataset].num_rows == interval.num_rows
            np.testing.assert_allclose(
                [
                    by_expert[name][dataset].mean,
                    by_expert[name][dataset].low,
                    by_expert[name][dataset].high,
                ],
                [interval.mean, interval.low, interval.high],
                rtol=1e-12,
            )
