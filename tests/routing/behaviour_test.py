"""Statistics of experts' answers: by hand, and laws that hold for all of them."""

import math
from typing import get_args

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.routing import behaviour

LOG = np.log
# Two experts, two rows of two answers; each probability can be followed by hand.
SURE = [LOG([0.5, 0.25]), LOG([0.125, 0.5])]
UNSURE = [LOG([0.25, 0.25]), LOG([0.5, 0.5])]
BASE = [LOG([0.25, 0.25]), LOG([0.25, 0.125])]
LENGTHS = [np.array([1, 2]), np.array([2, 4])]


def scores_of(*experts, base=None, lengths=LENGTHS, answers=None):
    return behaviour.ChoiceScores.of(
        [*experts],
        BASE if base is None else base,
        num_tokens=lengths,
        answers=answers or [np.arange(len(row)) for row in experts[0]],
    )


def entropy(*shares):
    return -sum(share * math.log(share) for share in shares if share)


# Of SURE: shares of the two rows are (2/3, 1/3) and (1/5, 4/5), their mean (13, 17)/30.
MEAN_ENTROPY = (entropy(2 / 3, 1 / 3) + entropy(1 / 5, 4 / 5)) / 2
INFORMATION = entropy(13 / 30, 17 / 30) - MEAN_ENTROPY
BY_HAND = {
    "log_prob": (LOG(0.5), (LOG(0.25) + LOG(0.5)) / 2),
    # Row 1 of SURE: log(1/2) by one token is as log(1/4) by two. Row 2: log(1/8) by two
    # tokens, log(1/2) by four.
    "log_prob_per_token": (
        (LOG(0.5) + LOG(0.5) / 4) / 2,
        (LOG(0.25) / 2 + LOG(0.5) / 4) / 2,
    ),
    "mass": ((LOG(0.75) + LOG(0.625)) / 2, (LOG(0.5) + LOG(1.0)) / 2),
    # The base gives the best answers of SURE 1/4 and 1/8; of UNSURE the first ones.
    "gain": ((LOG(2) + LOG(4)) / 2, (LOG(1) + LOG(2)) / 2),
    "entropy": (-MEAN_ENTROPY, -LOG(2)),
    "margin": ((LOG(2) + LOG(4)) / 2, 0.0),
    "information": (INFORMATION, 0.0),
    "mass_and_information": ((LOG(0.75) + LOG(0.625)) / 2 + INFORMATION, LOG(0.5) / 2),
}


@pytest.mark.parametrize("statistic", BY_HAND)
def test_a_statistic_is_what_one_computes_by_hand(statistic):
    values = behaviour.STATISTICS[statistic](scores_of(SURE, UNSURE))
    np.testing.assert_allclose(values, BY_HAND[statistic], atol=1e-12)


def test_the_gain_per_token_is_of_the_answer_that_is_best_per_token():
    # Row 1: by token, the second answer (log(1/2) / 4) is best; the base gives it 1/4.
    of_expert = [LOG([0.5, 0.5])]
    scores = scores_of(of_expert, base=[LOG([0.25, 0.25])], lengths=[np.array([1, 4])])
    gains = behaviour.STATISTICS["gain_per_token"](scores)
    np.testing.assert_allclose(gains, [LOG(2) / 4])


def test_every_statistic_is_known_by_its_name():
    assert {*behaviour.STATISTICS} == {*get_args(behaviour.Statistic)}
    assert {*BY_HAND} == {*behaviour.STATISTICS} - {"gain_per_token"}


def random_world(seed=0, *, experts=4, rows=6):
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 5, rows)
    draw = lambda: [rng.normal(-5, 3, n) for n in counts]  # noqa: E731
    lengths = [rng.integers(1, 6, n) for n in counts]
    return [draw() for _ in range(experts)], draw(), lengths


@pytest.mark.parametrize("statistic", behaviour.STATISTICS)
def test_the_order_of_rows_experts_and_choices_changes_nothing(statistic):
    of_experts, base, lengths = random_world()
    function = behaviour.STATISTICS[statistic]
    before = function(scores_of(*of_experts, base=base, lengths=lengths))
    # They can be told apart.
    assert len({f"{value:.9g}" for value in before}) == len(of_experts)
    order = np.random.default_rng(1).permutation(len(base))
    moved = [[rows[i] for i in order] for rows in of_experts]
    after = function(
        scores_of(
            *moved, base=[base[i] for i in order], lengths=[lengths[i] for i in order]
        )
    )
    np.testing.assert_allclose(after, before, atol=1e-12)
    after = function(scores_of(*of_experts[::-1], base=base, lengths=lengths))
    np.testing.assert_array_equal(after[::-1], before)
    whole = scores_of(*of_experts, base=base, lengths=lengths)
    turned = behaviour.ChoiceScores(
        whole.log_probs[:, :, ::-1],
        *(a[:, ::-1] for a in (whole.num_tokens, whole.is_answer, whole.base)),
    )
    np.testing.assert_allclose(function(turned), before, atol=1e-12)


@pytest.mark.parametrize("statistic", behaviour.STATISTICS)
def test_padding_is_never_read(statistic):
    of_experts, base, lengths = random_world()
    function = behaviour.STATISTICS[statistic]
    whole = scores_of(*of_experts, base=base, lengths=lengths)
    before = function(whole)
    assert not whole.is_answer.all()
    for filler in (np.nan, np.inf, 1e9, -np.inf):
        filled = behaviour.ChoiceScores(
            np.where(whole.is_answer, whole.log_probs, filler),
            np.where(whole.is_answer, whole.num_tokens, 7),
            whole.is_answer,
            np.where(whole.is_answer, whole.base, filler),
        )
        np.testing.assert_array_equal(function(filled), before)


@pytest.mark.parametrize("statistic", behaviour.STATISTICS)
def test_choices_of_one_answer_count_once(statistic):
    """`yes, no, no` has two answers, whatever the place of the second `no`."""
    row, base = LOG([0.5, 0.25]), LOG([0.25, 0.125])
    function = behaviour.STATISTICS[statistic]
    lengths = np.array([1, 2])
    once = scores_of([row], base=[base], lengths=[lengths], answers=[np.arange(2)])
    again = [np.append(array, array[1]) for array in (row, base, lengths)]
    twice = scores_of(
        [again[0]],
        base=[again[1]],
        lengths=[again[2]],
        answers=[np.array([0, 1, 1])],
    )
    np.testing.assert_allclose(function(twice), function(once))


@pytest.mark.parametrize("statistic", behaviour.STATISTICS)
def test_rows_with_one_answer_tell_nothing_about_a_choice(statistic):
    of_experts = [[LOG([0.5])]]
    scores = scores_of(*of_experts, base=[LOG([0.25])], lengths=[np.array([1])])
    if "information" in statistic or statistic in ("entropy", "margin"):
        with pytest.raises(errors.DataError, match="rows with one answer each"):
            behaviour.STATISTICS[statistic](scores)
    else:
        assert np.isfinite(behaviour.STATISTICS[statistic](scores)).all()


def test_a_longer_answer_that_is_as_likely_by_token_is_no_worse_per_token():
    """Short answers win by `log_prob` through their length alone."""
    short, long = LOG([0.5, 0.25]), LOG([0.5**4, 0.25**4])
    lengths = [np.array([1, 1])], [np.array([4, 4])]
    values = {}
    for name in ("log_prob", "log_prob_per_token"):
        function = behaviour.STATISTICS[name]
        values[name] = [
            function(scores_of([log_probs], base=[log_probs], lengths=num_tokens))[0]
            for log_probs, num_tokens in zip((short, long), lengths, strict=True)
        ]
    assert values["log_prob"][0] > values["log_prob"][1] + 2
    assert values["log_prob_per_token"][0] == pytest.approx(
        values["log_prob_per_token"][1]
    )


def test_experts_of_one_value_are_ranked_by_name_and_noise_does_not_tell():
    noisy = [row + 1e-9 for row in UNSURE]
    ranked = behaviour.ranked("bac", scores_of(noisy, UNSURE, SURE), "log_prob")
    assert [name for name, _ in ranked] == ["c", "a", "b"]
    assert ranked[1][1] == ranked[2][1]


def test_weights_are_shares_of_likelihoods():
    weights = behaviour.weights(LOG([0.5, 0.25, 0.25]) - 3, temperature=1.0)
    np.testing.assert_allclose(weights, [0.5, 0.25, 0.25])
    cold = behaviour.weights(LOG([0.5, 0.25]), temperature=0.5)
    np.testing.assert_allclose(cold, [0.8, 0.2])


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 3), (3, 2), (3, 2), (3, 2)],
        [(1, 3, 2), (3, 2), (3, 2), (3, 1)],
        [(0, 3, 2), (3, 2), (3, 2), (3, 2)],
        [(1, 0, 2), (0, 2), (0, 2), (0, 2)],
    ],
)
def test_scores_that_do_not_fit_are_refused(shapes):
    arrays = [np.ones(shape) for shape in shapes]
    arrays[2] = arrays[2].astype(bool)
    with pytest.raises(errors.DataError, match="three times"):
        behaviour.ChoiceScores(*arrays)
