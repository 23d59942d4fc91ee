"""Two stages: a router of whole tasks takes experts, and these are mixed."""

import dataclasses

import numpy as np
import pytest
from scipy import special

from elm_jax import errors
from elm_jax.evaluation import result_store
from elm_jax.merging import averages, task_arithmetic
from elm_jax.peft import mixture
from elm_jax.routing import behaviour, token_routers
from elm_jax.runs import (
    key_routers,
    loaded,
    loss_routers,
    observed,
    routed_tokens,
    routers,
    strategies,
)
from tests.runs import routed, toy

# Of the experts a, b and c on two rows of two answers.
LOG_PROBS = np.log([[[0.1, 0.2]] * 2, [[0.4, 0.5]] * 2, [[0.3, 0.3]] * 2])
MASS = dict(zip("abc", np.log([0.3, 0.9, 0.6]), strict=True))
WEIGHED = routers.ByBehaviour(
    statistic="mass",
    num_experts=2,
    weigh=True,
    temperature=4.0,
    method=averages.Weighted(),
)
STAGES = {
    "votes": strategies.Retrieved(num_experts=2),
    "similarity": strategies.Retrieved(num_experts=2, by="similarity"),
    "merge": strategies.MergeTopK(num_experts=2),
    "mass": routers.ByBehaviour(statistic="mass", num_experts=2),
    "one": routers.ByBehaviour(statistic="mass"),
    "weighed": WEIGHED,
}
# By hand; toy.RESULT: votes 2, 2, 1, summed similarity 0.5, 1 and 3.
WEIGHTS = {
    "votes": {"a": 0.5, "b": 0.5},
    "similarity": {"b": 0.25, "c": 0.75},
    "merge": {"a": 0.5, "b": 0.5},
    "mass": {"b": 0.5, "c": 0.5},
    "one": {"b": 1.0},
    "weighed": dict(
        zip("bc", special.softmax([MASS["b"] / 4, MASS["c"] / 4]), strict=True)
    ),
}
FIRST_STAGE = token_routers.FirstStage()


def weights_of(choice) -> tuple[float, ...]:
    return choice.method.weights


def mixed(first, router: mixture.Router = FIRST_STAGE, **changes):
    return routed_tokens.RoutedTokens(router=router, first=first, **changes)


@pytest.fixture
def question(tmp_path):
    shape = LOG_PROBS.shape[1:]
    scores = behaviour.ChoiceScores(
        LOG_PROBS, np.ones(shape, np.int64), np.ones(shape, bool), LOG_PROBS[0]
    )
    measured = observed.Behaviour(("a", "b", "c"), scores)
    return toy.question(tmp_path)._replace(behaviour=measured)


@pytest.mark.parametrize("name", [*STAGES])
def test_what_is_mixed_is_what_the_first_stage_takes_with_its_weights(question, name):
    first = STAGES[name]
    choice = mixed(first).pick(question)
    first_pick = first.pick(question)
    assert {*choice.experts} == {*first_pick.experts} == {*WEIGHTS[name]}
    assert choice.experts == tuple(sorted(choice.experts))  # so that sets are shared
    assert choice.method == averages.Weighted(weights=weights_of(choice))
    weight_of = dict(zip(choice.experts, weights_of(choice), strict=True))
    assert weight_of == pytest.approx(WEIGHTS[name])
    assert [n for n, _ in first.ranked(question)][: len(first_pick.experts)] == [
        *first_pick.experts
    ]


def test_a_number_alone_is_a_first_stage_by_votes(question):
    by_number = routed_tokens.RoutedTokens(num_experts=2)
    assert by_number.pick(question) == mixed(STAGES["votes"]).pick(question)
    assert by_number.label == "tokens_by_arrow_top2"
    assert by_number.reads_votes
    every = routed_tokens.RoutedTokens()
    assert every.pick(question).experts == ("a", "b", "c")
    assert not every.reads_votes


def test_names_and_settings_tell_the_first_stage_and_all_of_its_options():
    variants = [
        routed_tokens.RoutedTokens(),
        *(mixed(stage, token_routers.Arrow()) for stage in STAGES.values()),
        mixed(dataclasses.replace(WEIGHED, temperature=1.0), token_routers.Arrow()),
        mixed(WEIGHED),
    ]
    assert len({strategy.settings for strategy in variants}) == len(variants)
    weighed = mixed(WEIGHED)
    assert weighed.label == "tasks_by_first_stage_of_by_mass_top2_weighted_weighted"
    assert WEIGHED.note in weighed.note
    called = mixed(dataclasses.replace(WEIGHED, name="mine"))
    assert called.label == "tasks_by_first_stage_of_mine"
    assert called.settings == weighed.settings


@pytest.mark.parametrize(
    "first",
    [
        *STAGES.values(),
        routers.ByBehaviour(among=2),
        routers.ByWords(num_experts=2),
        routers.ByHalving(num_experts=2),
        key_routers.ByKeys(),
        loss_routers.ByInputLoss(num_experts=3),
    ],
)
def test_it_needs_what_its_first_stage_needs(first, question):
    mixed_strategy = mixed(first)
    needs = ("reads_votes", "scores_rows", "reads_inputs", "reads_labels")
    for need in (*needs, "needs_choices"):
        assert getattr(mixed_strategy, need) == getattr(first, need)
    assert mixed_strategy.looks_at(question) == first.looks_at(question)
    assert mixed_strategy.num_looked_at(5) == first.num_looked_at(5)
    assert mixed_strategy.num_taken(5) == min(first.num_experts, 5)
    assert mixed_strategy.num_taken(1) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 2, "first": WEIGHED}, "num_experts"),
        ({"first": None}, "first"),
        ({"first": WEIGHED, "shuffled": True}, "knows no expert"),
        ({"router": token_routers.Random(), "shuffled": True}, "knows no expert"),
    ],
)
def test_stages_that_contradict_each_other_are_refused(options, message):
    fields = {"router": FIRST_STAGE, **options}
    with pytest.raises(errors.ConfigError, match=message):
        routed_tokens.RoutedTokens(**fields)


def test_a_first_stage_that_merges_otherwise_than_by_a_mean_is_refused(question):
    summed = dataclasses.replace(
        STAGES["merge"], method=task_arithmetic.TaskArithmetic()
    )
    with pytest.raises(errors.ConfigError, match="task_arithmetic"):
        mixed(summed).pick(question)


def test_where_the_first_stage_abstains_nothing_or_all_are_mixed(question):
    shy = routers.ByBehaviour(statistic="mass", abstains=True, least=-0.1)
    assert mixed(shy).pick(question).experts == ()
    assert mixed(shy).num_taken(3) == 1
    even = dataclasses.replace(shy, otherwise="uniform")
    choice = mixed(even).pick(question)
    assert choice.experts == ("a", "b", "c")
    assert weights_of(choice) == pytest.approx((1 / 3,) * 3)
    assert mixed(even).num_taken(3) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("toy_tasks")
def test_a_library_is_scored_in_two_stages(tmp_path):
    """By weights of the first stage as by the same ones that are fixed."""
    toy.make_library(tmp_path, routed.save_expert)
    shy = routers.ByBehaviour(abstains=True, least=-1e-6)
    strategies_by_name = {
        "weighed": mixed(WEIGHED, name="weighed", norms="retrieved"),
        "halved": mixed(routers.ByHalving(first_rows=1), name="halved"),
        "shy": mixed(shy, name="shy"),
        "random": routed_tokens.RoutedTokens(router=token_routers.Random()),
    }
    run = toy.score(
        tmp_path, experts=(), strategies=("base", *strategies_by_name.values())
    )
    run.plan()
    run.run()
    store = result_store.ResultStore(run.path(run.results_path))
    rows = [row for row in store.rows() if row.metric == "accuracy"]
    row_of = {(row.expert, row.task): row for row in rows}
    for task in toy.TASKS:
        assert {*row_of["weighed", task].experts} == {"plain", "twice"}
        assert len(row_of["halved", task].experts) == 1
        base, of_shy = row_of["base", task], row_of["shy", task]
        assert of_shy.per_example_sha256 == base.per_example_sha256
    base = loaded.Base.load(tmp_path / "base")
    chosen = routed.chosen(tmp_path, FIRST_STAGE)
    weighed = dataclasses.replace(chosen, weights=(0.75, 0.25))
    again = dataclasses.replace(chosen, weights=(0.25, 0.75))
    assert weighed.fingerprint != again.fingerprint
    assert weighed.origin != again.origin
    params, spec = weighed.load(base)
    assert isinstance(spec, mixture.Mixture)
    assert spec.router == FIRST_STAGE
    leaf = params["encoder"]["layers"]["mlp_adapter"]["router"]["weight"]
    np.testing.assert_array_equal(leaf, [[0.75, 0.25]])


@pytest.mark.slow
@pytest.mark.usefixtures("toy_tasks")
def test_an_expert_has_its_own_random_directions_wherever_it_stands(tmp_path):
    toy.make_library(tmp_path, routed.save_expert)
    base = loaded.Base.load(tmp_path / "base")

    def directions(*names):
        chosen = routed.chosen(tmp_path, token_routers.Random(), names)
        params = chosen.load(base)[0]
        return {
            stack: params[stack]["layers"]["mlp_adapter"]["router"]["random_direction"]
            for stack in ("encoder", "decoder")
        }

    both, turned = directions("plain", "twice"), directions("twice", "plain")
    np.testing.assert_array_equal(both["encoder"], turned["encoder"][:, ::-1])
    np.testing.assert_array_equal(
        both["encoder"][:, :1], directions("plain")["encoder"]
    )
    assert not np.isin(both["encoder"][:, 0], both["encoder"][:, 1]).any()
    assert not np.isin(both["encoder"], both["decoder"]).any()
