"""Any router of whole tasks abstains by what it ranks experts by."""

import dataclasses

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.merging import averages
from elm_jax.routing import behaviour
from elm_jax.runs import (
    key_routers,
    loss_routers,
    observed,
    routed_candidate,
    routed_tokens,
    routers,
    strategies,
    strategy,
)
from tests.library.keys import ONE, QUERIES
from tests.runs import toy

ROUTERS = (
    strategies.Retrieved(),
    strategies.Retrieved(num_experts=2, by="similarity"),
    strategies.MergeTopK(),
    key_routers.ByKeys(num_nearest=2, num_experts=2),
    routers.ByBehaviour(statistic="mass"),
    routers.ByWords(num_experts=2),
    routers.ByHalving(num_experts=2),
    loss_routers.ByInputLoss(num_experts=2),
)
LOG_PROBS = np.log([[[0.3, 0.2]], [[0.5, 0.4]], [[0.1, 0.1]]])  # of a, b and c


@pytest.fixture
def question(tmp_path, monkeypatch):
    """A question for which every router ranks experts."""
    for router in (routers.ByWords, routers.ByHalving):
        monkeypatch.setattr(router, "ranked", lambda *_: (("b", 0.5), ("a", 0.25)))
    by_loss = (("b", -0.5), ("a", -0.75))
    monkeypatch.setattr(loss_routers.ByInputLoss, "ranked", lambda *_: by_loss)
    ones = np.ones((1, 2))
    scores = behaviour.ChoiceScores(
        LOG_PROBS, ones.astype(int), ones.astype(bool), LOG_PROBS[0]
    )
    measured = observed.Behaviour(("a", "b", "c"), scores)
    with_keys = toy.question(tmp_path)._replace(opened=ONE, vectors=QUERIES)
    return with_keys._replace(behaviour=measured)


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.label)
def test_the_base_or_the_mean_of_all_is_taken_below_the_least_value(router, question):
    choice, value = router.pick(question), router.ranked(question)[0][1]
    at = dataclasses.replace(router, abstains=True, least=float(value))
    assert at.pick(question) == choice  # so much is enough
    shy = dataclasses.replace(at, least=float(value) + 1e-3)
    assert shy.pick(question).experts == ()
    assert not shy.merges or router.merges
    even = dataclasses.replace(shy, otherwise="uniform")
    choice = even.pick(question)
    assert (choice.experts, choice.method) == (("a", "b", "c"), averages.RunningMean())
    assert even.merges
    assert (even.num_taken(9), shy.num_taken(9)) == (9, router.num_taken(9))


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.label)
def test_names_notes_and_settings_tell_that_it_abstains(router):
    shy = dataclasses.replace(router, abstains=True, least=-0.25)
    even = dataclasses.replace(shy, otherwise="uniform")
    assert shy.label == f"{router.label}_or_base_below_-0.25"
    assert even.label == f"{router.label}_or_uniform_below_-0.25"
    assert dataclasses.replace(shy, name="shy").label == "shy"
    assert shy.note.endswith("base below -0.25")
    assert even.note.endswith("uniform below -0.25")
    assert len({each.settings for each in (router, shy, even)}) == 3
    several = f"top{router.num_experts}" if router.num_experts > 1 else "top"
    assert even.label.count("top") == router.label.count(several)


BY_LOG_PROBS = [
    loss_routers.ByInputLoss(),
    *(routers.ByBehaviour(statistic=name) for name in sorted(behaviour.BELOW_0)),
]


@pytest.mark.parametrize("router", BY_LOG_PROBS, ids=lambda router: router.label)
def test_a_threshold_that_no_log_probability_reaches_is_refused(router):
    for least in ({}, {"least": 0.0}, {"least": 1.5}):
        with pytest.raises(errors.ConfigError, match="no expert would ever be taken"):
            dataclasses.replace(router, abstains=True, **least)
        dataclasses.replace(router, **least)  # which is read by no one
    dataclasses.replace(router, abstains=True, least=-1e-3)


def test_a_threshold_of_0_is_meant_where_numbers_may_be_above_it():
    others = set(behaviour.STATISTICS) - behaviour.BELOW_0
    for router in (
        *(routers.ByBehaviour(statistic=name) for name in others),
        *(each for each in ROUTERS if not each.ranks_below_0),
    ):
        shy = dataclasses.replace(router, abstains=True)
        assert (shy.abstains, shy.least) == (True, 0.0)
        assert shy.note.endswith("base below 0")


@pytest.mark.parametrize("statistic", sorted(behaviour.STATISTICS))
def test_statistics_below_0_are_those_that_are_listed(statistic):
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(4), size=(50, 6))[..., :3])
    ones = np.ones((6, 3), int)
    scores = behaviour.ChoiceScores(log_probs, ones, ones.astype(bool), log_probs[0])
    values = behaviour.STATISTICS[statistic](scores)
    assert (statistic in behaviour.BELOW_0) == bool((values < 0).all())


def test_a_router_that_ranks_no_expert_says_so_or_takes_the_base(
    question, monkeypatch, tmp_path
):
    monkeypatch.setattr(routers.ByWords, "ranked", lambda *_: ())
    by_words = routers.ByWords()
    with pytest.raises(errors.DataError, match="no expert that by_words ranks for"):
        by_words.pick(question)
    shy = dataclasses.replace(by_words, abstains=True)
    assert shy.pick(question).experts == ()
    even = dataclasses.replace(shy, otherwise="uniform")
    mixed = routed_tokens.RoutedTokens(first=even, norms="retrieved")
    with_keys = question._replace(library_dir=tmp_path)
    candidate = mixed.choose(strategy.Target("task", tmp_path.joinpath, with_keys))
    assert isinstance(candidate, routed_candidate.RoutedCandidate)
    assert len(candidate.folders) == 3
    assert not candidate.norms_of  # nor is there a first one
