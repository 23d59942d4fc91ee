"""How often a shortest choice is the best one is told of rows that differ in length."""

import numpy as np
import pytest

from tests.benchmarks import choice_lengths_table


def test_the_shares_are_those_counted_by_hand():
    lengths = [np.array([1, 4]), np.array([2, 8, 2, 8]), np.array([3, 3])]
    scores = [np.array([-2.0, -4.0]), np.array([-3.0, -3.0, -5.0, -8.0]), np.zeros(2)]
    shares = choice_lengths_table.shares(scores, lengths, [1, 0, 0])
    assert shares is not None
    # The third row's choices are equally long. Of the second, a short and a long choice
    # have the best sum, and the long one of these the best mean.
    assert shares.by_sum == 100 * (1 + 0.5) / 2
    assert shares.by_mean == 0  # -1 of 4 tokens against -2 of one; -3/8 against -3/2
    assert shares.by_chance == 50
    assert shares.by_label == 50
    assert shares.num_rows == 2


def test_rows_of_choices_of_one_length_tell_nothing():
    assert choice_lengths_table.shares([np.zeros(2)], [np.ones(2)], [0]) is None


@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_a_model_that_gives_all_tokens_one_probability_chooses_the_shortest(
    temperature,
):
    lengths = [np.array([1, 2, 3]), np.array([5, 2, 2])]
    scores = [-temperature * tokens for tokens in lengths]
    shares = choice_lengths_table.shares(scores, lengths, [2, 1])
    assert shares is not None
    assert shares.by_sum == 100
    assert (
        shares.by_mean == shares.by_chance == pytest.approx(100 * (1 / 3 + 2 / 3) / 2)
    )
