"""Strategies: values that gin files name."""

import dataclasses
import gc
import hashlib
import json
import weakref

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.merging import (
    aligning,
    averages,
    elementwise,
    noise,
    task_arithmetic,
)
from elm_jax.runs import (
    candidates,
    loaded,
    offered,
    strategies,
)
from tests.runs import toy

TASKS = toy.TASKS


pytestmark = pytest.mark.usefixtures("toy_tasks")


def test_notes_say_how_many_experts_are_taken_at_most():
    notes = {
        strategies.Retrieved(num_experts=3): "mean of at most three experts,"
        " those with most votes, as weights",
        strategies.MergeTopK(): "uniform merge of at most three experts,"
        " those with most votes",
        strategies.MergeTopK(num_experts=12, by="similarity"): "uniform merge of at"
        " most 12 experts, those with most similarity",
    }
    assert {strategy: strategy.note for strategy in notes} == notes


def test_experts_are_ranked_by_votes_or_by_similarity():
    assert toy.RESULT.ranked("votes") == (("a", 2.0), ("b", 2.0), ("c", 1.0))
    assert toy.RESULT.ranked("similarity") == (("c", 3.0), ("b", 1.0), ("a", 0.5))


@pytest.mark.parametrize(
    ("strategy", "names", "method"),
    [
        (strategies.Retrieved(), "a", averages.Uniform()),
        (strategies.Retrieved(by="similarity"), "c", averages.Uniform()),
        (
            strategies.Retrieved(num_experts=3),
            "abc",
            averages.Weighted(weights=(2.0, 2.0, 1.0)),
        ),
        (strategies.MergeTopK(), "abc", averages.Uniform()),
        (
            strategies.MergeTopK(
                num_experts=2,
                method=task_arithmetic.TaskArithmetic(scale=0.3),
                by="similarity",
                weigh=True,
            ),
            "cb",
            task_arithmetic.TaskArithmetic(weights=(0.75, 0.25), scale=0.3),
        ),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_what_a_library_strategy_takes(tmp_path, strategy, names, method):
    target = strategies.Target("task", tmp_path.joinpath, toy.question(tmp_path))
    candidate = strategy.choose(target)
    assert "".join(folder.name for folder in candidate.folders) == names
    assert candidate.method == method
    assert (candidate.name, candidate.kind) == (strategy.label, "strategy")


def test_settings_tell_options_that_are_not_as_by_default_and_no_name():
    assert strategies.MergeTopK(name="mine").settings == ""
    changed = strategies.MergeTopK(method=averages.Weighted())
    assert changed.settings
    assert changed.settings == dataclasses.replace(changed, name="x").settings
    scaled = [
        strategies.MergeTopK(method=task_arithmetic.TaskArithmetic(scale=scale))
        for scale in (0.3, 0.4)
    ]
    assert scaled[0].settings != scaled[1].settings


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("retreived",), "Did you mean: retrieved"),
        ((strategies.MergeTopK(name="oracle"),), "reports do not use"),
        ((strategies.MergeTopK(name="best_crossfit"),), "reports do not use"),
        (
            (strategies.Retrieved(name="x"), strategies.MergeTopK(name="x")),
            "two strategies 'x'",
        ),
    ],
)
def test_names_of_strategies_that_cannot_be_are_refused(entries, message):
    with pytest.raises(errors.ConfigError, match=message):
        strategies.of(entries)


@pytest.mark.parametrize(
    ("method", "is_same"),
    [
        (averages.Weighted(), True),
        (aligning.AlignedAverage(), True),
        (elementwise.Della(), True),
        (task_arithmetic.TaskArithmetic(), False),
        (elementwise.Ties(), False),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_rows_of_sums_whose_weights_were_the_votes_themselves_are_of_other_settings(
    method, is_same
):
    weighed = strategies.MergeTopK(method=method, weigh=True)
    options = {
        "method": [type(method).__name__, {}],
        "weigh": True,
    }  # as they were told until then
    text = json.dumps(options, sort_keys=True).encode()
    assert (weighed.settings == hashlib.sha256(text).hexdigest()[:8]) == is_same
    plain = dataclasses.replace(weighed, weigh=False)
    text = json.dumps({"method": options["method"]}).encode()
    assert plain.settings == hashlib.sha256(text).hexdigest()[:8]


def test_averages_keep_the_votes_as_weights_so_that_their_rows_stay_scored(tmp_path):
    strategy = strategies.MergeTopK(method=averages.Weighted(), weigh=True)
    picked = strategy.pick(toy.question(tmp_path))
    assert picked.method == averages.Weighted(weights=(2.0, 2.0, 1.0))


@pytest.mark.parametrize("num_votes", [1, 32])
def test_more_votes_of_equal_shares_change_a_weighed_sum_no_more(tmp_path, num_votes):
    votes = tuple((name, num_votes * count) for name, count in toy.RESULT.votes)
    question = toy.question(tmp_path)
    result = dataclasses.replace(question.result, votes=votes)
    method = task_arithmetic.TaskArithmetic()
    picked = strategies.MergeTopK(method=method, weigh=True).pick(
        question._replace(result=result)
    )
    assert picked.method == dataclasses.replace(method, weights=(0.4, 0.4, 0.2))


def test_a_merge_without_weights_cannot_be_weighed():
    with pytest.raises(errors.ConfigError, match="weights for uniform"):
        strategies.MergeTopK(weigh=True)


def test_one_expert_as_a_strategy_is_the_expert(library_folder):
    strategy = strategies.Expert(path=str(library_folder / "experts" / "plain"))
    (pair,) = offered.without_library([strategy], TASKS, library_folder.joinpath)
    folder = library_folder / "experts" / "plain"
    assert pair == (candidates.of_experts([folder])[0], [*TASKS])
    assert pair[0].fingerprint == manifest.read_manifest(folder).fingerprint


@pytest.mark.slow
def test_a_mean_of_many_experts_holds_one_at_a_time(library_folder, monkeypatch):
    folders = tuple(library_folder / "experts" / name for name in ("twice", "plain"))
    base = loaded.Base.load(library_folder / "base")
    trees_of = [experts.load_expert(folder)[0] for folder in folders]
    expected = averages.RunningMean().merge(trees_of).params
    before: list[weakref.ref[loaded.Expert]] = []
    load = loaded.Expert.load

    def load_one(folder):
        gc.collect()
        assert not any(reference() for reference in before[:-1])
        expert = load(folder)
        before.append(weakref.ref(expert))
        return expert

    monkeypatch.setattr(loaded.Expert, "load", load_one)
    for order in (folders, folders[::-1], folders * 3):
        before.clear()
        method = averages.RunningMean()
        params, _ = candidates.Candidate("x", order, method=method).load(base)
        assert len(before) == len(order)
        whole = trees.flatten(params)
        for name, leaf in trees.flatten(expected).items():
            np.testing.assert_array_equal(whole[name], leaf)


def test_noise_in_place_of_an_expert_differs_by_its_seed(library_folder):
    folders = (library_folder / "experts" / "plain",)
    base = loaded.Base.load(library_folder / "base")
    noisy = [
        candidates.Candidate("x", folders, method=noise.Noise(random_seed=seed))
        for seed in (0, 0, 1)
    ]
    assert noisy[0].fingerprint == noisy[1].fingerprint != noisy[2].fingerprint
    ours, same, of_other_seed = (
        trees.fingerprint(candidate.load(base)[0]) for candidate in noisy
    )
    assert ours == same != of_other_seed
    names = [strategies.RandomWeights(random_seed=seed).label for seed in (0, 2)]
    assert names == ["random_weights", "random_weights_2"]
