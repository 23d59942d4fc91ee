import math

import numpy as np
import pytest

from elm_jax.evaluation import cross_fitting, estimates, fold_choices, statistics

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
        {name: [columns] for name, columns in experts.items()}, draws
    )


def plain_fit(experts, draws, *, single, reported=None):
    """The same by loops: the mean on each fold of what the others chose."""
    reported = reported or experts
    keys = sorted(next(iter(experts.values())))
    folds = {d: draws.folds(d, NUM_ROWS, cross_fitting.NUM_FOLDS) for d, _ in keys}

    def mean_of(name, key, fold, *, inside):
        is_inside = folds[key[0]] == fold
        results = reported if inside else experts
        return results[name][key].values[is_inside if inside else ~is_inside].mean()

    def outside(name, fold, chosen_by):
        by_dataset = {}
        for key in chosen_by:
            score = mean_of(name, key, fold, inside=False)
            by_dataset.setdefault(key[0], []).append(score)
        return np.mean([np.mean(scores) for scores in by_dataset.values()])

    scores = {}
    for key in keys:
        total = 0.0
        for fold in range(cross_fitting.NUM_FOLDS):
            by = keys if single else [key]
            best = max(experts, key=lambda name: outside(name, fold, by))  # noqa: B023
            number = (folds[key[0]] == fold).sum()
            total += number * mean_of(best, key, fold, inside=True)
        scores.setdefault(key[0], []).append(total / NUM_ROWS)
    return [np.mean(of_prompts) for of_prompts in scores.values()]


@pytest.mark.parametrize("way", ["best_single", "best_per_prompt"])
def test_the_score_is_that_of_folds_that_did_not_choose(way):
    experts = library([0.4, 0.5, 0.55, 0.6, 0.5])
    draws = estimates.Draws()
    fitted = getattr(fit(experts, draws), way)
    expected = plain_fit(experts, draws, single=way == "best_single")
    assert fitted.estimate.means == pytest.approx(expected)
    assert statistics.mean(fitted.columns[0]) == pytest.approx(fitted.estimate.mean)
    num_choices = 3 * cross_fitting.NUM_FOLDS
    assert sum(count for _, count in fitted.counts) == num_choices


def test_blocks_of_resamples_give_what_one_block_gives(monkeypatch):
    experts, draws = library([0.4, 0.5, 0.6]), estimates.Draws(num_resamples=50)
    whole = fit(experts, draws).best_single.estimate.errors
    monkeypatch.setattr(cross_fitting, "_BLOCK_SIZE", 200)
    parts = fit(experts, draws).best_single.estimate.errors
    np.testing.assert_array_equal(whole, parts)


def test_an_expert_that_is_best_by_far_is_chosen_by_all_folds():
    fitted = fit(library([0.2, 0.9, 0.3]), estimates.Draws())
    assert fitted.best_single.counts == (("e01", 3 * cross_fitting.NUM_FOLDS),)
    # Nothing is chosen in any resample but what the point chose.
    best = library([0.2, 0.9, 0.3])["e01"]
    plain = estimates.estimate([best], estimates.Draws())
    np.testing.assert_allclose(
        fitted.best_single.estimate.errors, plain.errors, atol=1e-4
    )
    assert fitted.best_single.estimate.rows == plain.rows


def test_prompts_may_lack_rows_and_rows_may_be_few():
    experts = library([0.3, 0.6], num_rows=3)
    for columns in experts.values():
        ids, values = columns["a", "a_1"]
        columns["a", "a_1"] = statistics.Column(ids[:2], values[:2])
    fitted = fit(experts, estimates.Draws())
    assert np.isfinite(fitted.best_single.estimate.errors).all()
    assert len(fitted.best_per_prompt.columns[0]["a", "a_1"].values) == 2


def test_experts_with_other_rows_or_a_single_row_are_not_chosen_among():
    experts = library([0.3, 0.6])
    del experts["e00"]["b", "b_0"]
    assert fit(experts, estimates.Draws()) is None
    single = library([0.3, 0.6], num_rows=1)
    assert fit(single, estimates.Draws()) is None


def test_trainings_of_the_chosen_widen_the_interval():
    first, second = library([0.2, 0.9]), library([0.2, 0.7], seed=1)
    both = {name: [first[name], second[name]] for name in first}
    fitted = cross_fitting.cross_fit(both, estimates.Draws()).best_single
    assert fitted.estimate.num_trainings == len(fitted.columns) == 2
    means = [statistics.mean(training["e01"]) for training in (first, second)]
    assert fitted.estimate.mean == pytest.approx(np.mean(means))
    alone = fit(first, estimates.Draws()).best_single
    assert fitted.estimate.scale > 2 * alone.estimate.scale
    uneven = both | {"e00": both["e00"][:1]}
    fitted = cross_fitting.cross_fit(uneven, estimates.Draws()).best_single
    assert fitted.estimate.num_trainings == 1


def trained(rates, *, num_trainings, spread=0.1):
    """Experts whose trainings are lucky or not, in the order of expert and training."""
    rng = np.random.default_rng(5)
    of_each = [
        library([rate + spread * rng.normal() for rate in rates], seed=10 + training)
        for training in range(num_trainings)
    ]
    return {name: [experts[name] for experts in of_each] for name in of_each[0]}


def plain_fit_of_trainings(experts, draws, *, single):
    """The same by loops: this training on this fold, chosen by all others."""
    num_trainings = len(next(iter(experts.values())))
    totals = []
    for training in range(num_trainings):
        others = {
            name: {
                key: statistics.Column(
                    column.example_ids,
                    np.mean(
                        [
                            trainings[another][key].values
                            for another in range(num_trainings)
                            if another != training
                        ],
                        axis=0,
                    ),
                )
                for key, column in trainings[0].items()
            }
            for name, trainings in experts.items()
        }
        reported = {name: trainings[training] for name, trainings in experts.items()}
        totals.append(plain_fit(others, draws, single=single, reported=reported))
    return np.mean(totals, axis=0)


@pytest.mark.parametrize("num_trainings", [2, 3])
@pytest.mark.parametrize("way", ["best_single", "best_per_prompt"])
def test_the_score_is_that_of_trainings_that_did_not_choose(way, num_trainings):
    experts = trained([0.4, 0.5, 0.55, 0.5], num_trainings=num_trainings)
    draws = estimates.Draws()
    fitted = getattr(cross_fitting.cross_fit(experts, draws), way)
    expected = plain_fit_of_trainings(experts, draws, single=way == "best_single")
    assert fitted.estimate.means == pytest.approx(expected)
    means = [statistics.mean(columns) for columns in fitted.columns]
    assert len(means) == num_trainings
    assert np.mean(means) == pytest.approx(fitted.estimate.mean)
    num_choices = 3 * num_trainings * cross_fitting.NUM_FOLDS
    assert sum(count for _, count in fitted.counts) == num_choices


def test_blocks_of_resamples_draw_trainings_as_one_block_does(monkeypatch):
    experts = trained([0.5, 0.5, 0.5], num_trainings=3)
    draws = estimates.Draws(num_resamples=50)
    whole = cross_fitting.cross_fit(experts, draws).best_single.estimate.errors
    monkeypatch.setattr(cross_fitting, "_BLOCK_SIZE", 200)
    parts = cross_fitting.cross_fit(experts, draws).best_single.estimate.errors
    # Sums of float32 in another order: scores are of the order of 100.
    np.testing.assert_allclose(whole, parts, atol=1e-3)


def test_who_is_always_chosen_has_the_errors_of_an_estimate_of_its_trainings():
    experts = trained([0.1, 0.8, 0.1], num_trainings=3)
    draws = estimates.Draws()
    fitted = cross_fitting.cross_fit(experts, draws).best_single.estimate
    plain = estimates.estimate(experts["e01"], draws, who="e01")
    np.testing.assert_allclose(fitted.means, plain.means)
    np.testing.assert_allclose(fitted.errors, plain.errors, atol=1e-3)
    for (whose, number), apart in plain.trainings.items():
        np.testing.assert_allclose(fitted.trainings[whose, number], apart)
    assert plain.num_trainings == fitted.num_trainings == 3


def test_an_expert_that_varies_more_than_others_has_its_own_errors():
    """Its distance from the others is noise by its trainings, and it is chosen."""
    ids = np.arange(200)
    rng = np.random.default_rng(0)

    def results(mean):
        values = np.where(rng.random(200) < mean / 100, 100.0, 0.0)
        return {("a", "a_0"): statistics.Column(ids, values)}

    experts = {
        "varies": [results(mean) for mean in (95, 85, 75, 70, 65)],
        "steady": [results(60) for _ in range(5)],
    }
    draws = estimates.Draws()
    fitted = cross_fitting.cross_fit(experts, draws).best_single
    assert dict(fitted.counts) == {"varies": 10}
    plain = estimates.estimate(experts["varies"], draws, who="varies")
    assert fitted.estimate.scale > 0.97 * plain.scale
    assert fitted.estimate.reach(1.96) == pytest.approx(plain.reach(1.96), rel=0.05)


def test_settings_that_share_trainings_share_their_luck():
    """As ways to ask one library do, however alike they are."""
    same = trained([0.5], num_trainings=3, spread=0.3)["e00"]
    draws = estimates.Draws()
    labels = {f"setting {place}": same for place in range(4)}
    fitted = cross_fitting.cross_fit(labels, draws, shared="library")
    plain = estimates.estimate(same, draws, who="library")
    for chosen in fitted:
        # Sums of float32: scores are of the order of 100.
        np.testing.assert_allclose(chosen.estimate.errors, plain.errors, atol=1e-3)
        assert chosen.estimate.reach(1.96) == pytest.approx(plain.reach(1.96))


def test_chosen_scores_of_equal_experts_are_not_too_high():
    """The mean over trainings that chose would be 7 points too high."""
    missed = []
    for world in range(60):
        rng = np.random.default_rng(world)
        experts = {
            f"e{place}": [
                {("a", "a_0"): statistics.Column(np.arange(50), rng.normal(m, 20, 50))}
                for m in rng.normal(50, 10, 3)
            ]
            for place in range(5)
        }
        draws = estimates.Draws(num_resamples=20)
        fitted = cross_fitting.cross_fit(experts, draws)
        missed.append(fitted.best_single.estimate.mean - 50)
    # Each is off by some 7 points, by 10 / sqrt(3) and its rows.
    assert abs(np.mean(missed)) < 3 * 7 / 60**0.5


def test_two_equal_experts_are_chosen_as_uncertainly_as_in_other_worlds():
    ids, naive = np.arange(200), 10 / 200**0.5
    scales = []
    for world in range(60):
        rng = np.random.default_rng(world)
        experts = {
            name: {("a", "a_0"): statistics.Column(ids, rng.normal(50, 10, 200))}
            for name in ("e0", "e1")
        }
        fitted = fit(experts, estimates.Draws(seed=world, num_resamples=500))
        scales.append(fitted.best_single.estimate.scale)
    # The greater of two standard normals is 1 / sqrt(pi) on average, in both halves,
    # which choose the same expert as often as not.
    expected = naive * math.sqrt(1 + 1 / math.pi)
    assert np.mean(scales) == pytest.approx(expected, rel=0.03)
    assert np.mean(scales) > 1.1 * naive


def test_distances_within_noise_are_none_and_others_nearly_what_they_are():
    scores = np.array([60.0, 58.0, 50.0])
    # Of 100 rows that are a tenth apart from their expert's mean, up or down.
    signs = np.resize([1.0, -1.0], 100)[:, np.newaxis]
    spread = signs * np.array([[0.1, -0.1, -0.1]])
    error = math.sqrt(100 * 0.2**2) * estimates.scale_up(100)
    distances = fold_choices.beyond_noise(scores, [spread])
    noise = fold_choices._OF_NOISE * error
    assert noise > 2
    expected = [0.0, 0.0, -math.sqrt(10**2 - noise**2)]
    assert distances == pytest.approx(expected, rel=1e-6)
    # Two experts that are one have no noise between them, and no distance.
    assert fold_choices.beyond_noise(scores[:2], [spread[:, 1:]]).max() == 0
