import numpy as np
import pytest

from elm_jax.evaluation import cross_fitting, estimates, statistics

DATASETS = {"a": 2, "b": 1}
NUM_ROWS = 40


def library(rates, *, seed=0, num_rows=NUM_ROWS):
    """Experts with a chance of being right on each row, by their place."""
    rng = np.random.default_rng(seed)
    return {
        f"e{place:02d}": {
            (dataset, f"{dataset}_{prompt}"): statistics.Column(
                np.arange(num_rows), 100.0 * (rng.random(num_rows) < rate)
            )
            for dataset, number in DATASETS.items()
            for prompt in range(number)
        }
        for place, rate in enumerate(rates)
    }


def fit(experts, draws):
    return cross_fitting.cross_fit(
        {name: [own] for name, own in experts.items()}, draws
    )


def plain_fit(experts, draws, *, single):
    """The same by loops: the mean on each fold of what the others chose."""
    keys = sorted(next(iter(experts.values())))
    folds = {d: draws.folds(d, NUM_ROWS, cross_fitting.NUM_FOLDS) for d, _ in keys}

    def mean_of(name, key, fold, *, inside):
        own = folds[key[0]] == fold
        return experts[name][key].values[own if inside else ~own].mean()

    def outside(name, fold, chosen_by):
        by_dataset = {}
        for key in chosen_by:
            score = mean_of(name, key, fold, inside=False)
            by_dataset.setdefault(key[0], []).append(score)
        return np.mean([np.mean(own) for own in by_dataset.values()])

    found = {}
    for key in keys:
        total = 0.0
        for fold in range(cross_fitting.NUM_FOLDS):
            by = keys if single else [key]
            best = max(experts, key=lambda name: outside(name, fold, by))  # noqa: B023
            number = (folds[key[0]] == fold).sum()
            total += number * mean_of(best, key, fold, inside=True)
        found.setdefault(key[0], []).append(total / NUM_ROWS)
    return [np.mean(own) for own in found.values()]


@pytest.mark.parametrize("way", ["best_single", "best_per_prompt"])
def test_the_score_is_that_of_folds_that_did_not_choose(way):
    experts = library([0.4, 0.5, 0.55, 0.6, 0.5])
    draws = estimates.Draws()
    found = getattr(fit(experts, draws), way)
    expected = plain_fit(experts, draws, single=way == "best_single")
    assert found.estimate.means == pytest.approx(expected)
    assert statistics.mean(found.columns[0]) == pytest.approx(found.estimate.mean)
    num_choices = 3 * cross_fitting.NUM_FOLDS
    assert sum(count for _, count in found.counts) == num_choices


def test_blocks_of_resamples_give_what_one_block_gives(monkeypatch):
    experts, draws = library([0.4, 0.5, 0.6]), estimates.Draws(num_resamples=50)
    whole = fit(experts, draws).best_single.estimate.errors
    monkeypatch.setattr(cross_fitting, "_BLOCK_SIZE", 200)
    parts = fit(experts, draws).best_single.estimate.errors
    np.testing.assert_array_equal(whole, parts)


def test_an_expert_that_is_best_by_far_is_chosen_by_all_folds():
    found = fit(library([0.2, 0.9, 0.3]), estimates.Draws())
    assert found.best_single.counts == (("e01", 3 * cross_fitting.NUM_FOLDS),)
    # Nothing is chosen in any resample but what the point chose.
    one = library([0.2, 0.9, 0.3])["e01"]
    plain = estimates.estimate([one], estimates.Draws())
    np.testing.assert_allclose(
        found.best_single.estimate.errors, plain.errors, atol=1e-4
    )
    assert found.best_single.estimate.rows == plain.rows


def test_prompts_may_lack_rows_and_rows_may_be_few():
    experts = library([0.3, 0.6], num_rows=3)
    for own in experts.values():
        ids, values = own["a", "a_1"]
        own["a", "a_1"] = statistics.Column(ids[:2], values[:2])
    found = fit(experts, estimates.Draws())
    assert np.isfinite(found.best_single.estimate.errors).all()
    assert len(found.best_per_prompt.columns[0]["a", "a_1"].values) == 2


def test_experts_with_other_rows_or_a_single_row_are_not_chosen_among():
    experts = library([0.3, 0.6])
    del experts["e00"]["b", "b_0"]
    assert fit(experts, estimates.Draws()) is None
    single = library([0.3, 0.6], num_rows=1)
    assert fit(single, estimates.Draws()) is None


def test_trainings_of_the_chosen_widen_the_interval():
    first, second = library([0.2, 0.9]), library([0.2, 0.7], seed=1)
    both = {name: [first[name], second[name]] for name in first}
    found = cross_fitting.cross_fit(both, estimates.Draws()).best_single
    assert found.estimate.num_trainings == len(found.columns) == 2
    means = [statistics.mean(own["e01"]) for own in (first, second)]
    assert found.estimate.mean == pytest.approx(np.mean(means))
    alone = fit(first, estimates.Draws()).best_single
    assert found.estimate.scale > 2 * alone.estimate.scale
    uneven = both | {"e00": both["e00"][:1]}
    found = cross_fitting.cross_fit(uneven, estimates.Draws()).best_single
    assert found.estimate.num_trainings == 1
