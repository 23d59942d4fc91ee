"""Choice scores: parity with T5X and with the plain way, and no copies."""

import re

import jax
import numpy as np
import pytest

from elm_jax.model import scoring
from tests.model import naive_scores


def random_choices(seed, *, batch=4, num_choices=5, length=6):
    rng = np.random.default_rng(seed)
    choices = rng.integers(2, 384, (batch, num_choices, length)).astype(np.int32)
    ends = rng.integers(0, length, (batch, num_choices, 1))
    positions = np.arange(length)[None, None]
    choices = np.where(positions == ends, 1, np.where(positions < ends, choices, 0))
    mask = np.arange(num_choices)[None] < rng.integers(1, num_choices + 1, (batch, 1))
    return np.where(mask[..., None], choices, 0).astype(np.int32), mask


def test_scores_equal_those_of_t5x(tiny, assert_close):
    choices = tiny.batch["decoder_target_tokens"][:, None]
    score = scoring.make_score_fn(tiny.model)
    mask = np.ones((4, 1), bool)
    scores = score(tiny.params, tiny.batch["encoder_input_tokens"], choices, mask)
    assert_close(scores[:, 0], tiny.reference["scores"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_the_plain_way(tiny, seed, assert_close):
    choices, mask = random_choices(seed)
    inputs = tiny.batch["encoder_input_tokens"]
    scores = scoring.make_score_fn(tiny.model)(tiny.params, inputs, choices, mask)
    plain = naive_scores.make_score_fn(tiny.model)(tiny.params, inputs, choices, mask)
    assert_close(scores, plain, where=mask)
    assert scores.dtype == np.float32


@pytest.mark.slow
def test_masked_choices_score_minus_infinity_and_influence_nothing(tiny):
    choices, mask = random_choices(0)
    inputs = tiny.batch["encoder_input_tokens"]
    score = scoring.make_score_fn(tiny.model)
    scores = score(tiny.params, inputs, choices, mask)
    assert np.all(np.isneginf(scores[~mask]))
    assert np.all(np.isfinite(scores[mask]))
    masked_otherwise = np.where(mask[..., None], choices, 7).astype(np.int32)
    np.testing.assert_array_equal(
        score(tiny.params, inputs, masked_otherwise, mask), scores
    )


@pytest.mark.slow
def test_choices_do_not_see_each_other(tiny, assert_close):
    choices, _ = random_choices(1)
    mask = np.ones(choices.shape[:2], bool)
    inputs = tiny.batch["encoder_input_tokens"]
    score = scoring.make_score_fn(tiny.model)
    together = score(tiny.params, inputs, choices, mask)
    for i in range(choices.shape[1]):
        alone = score(tiny.params, inputs, choices[:, i : i + 1], mask[:, :1])
        assert_close(together[:, i], alone[:, 0])


@pytest.mark.slow
def test_padding_of_choices_and_inputs_changes_nothing(tiny, assert_close):
    choices, mask = random_choices(2)
    inputs = tiny.batch["encoder_input_tokens"]
    score = scoring.make_score_fn(tiny.model)
    scores = score(tiny.params, inputs, choices, mask)
    wide = score(
        tiny.params,
        np.pad(inputs, ((0, 1), (0, 8))),
        np.pad(choices, ((0, 1), (0, 2), (0, 3))),
        np.pad(mask, ((0, 1), (0, 2))),
    )
    assert_close(wide[:4, :5], scores, where=mask)


def test_inputs_are_encoded_once_and_never_repeated(tiny):
    """No array of the program holds the inputs' positions once per choice."""
    choices, mask = random_choices(0, num_choices=7, length=5)
    inputs = np.pad(tiny.batch["encoder_input_tokens"], ((0, 0), (0, 5)))  # 4 x 29
    args = (tiny.params, inputs, choices, mask)

    def largest_per_position(make):
        program = jax.jit(make(tiny.model)).lower(*args).as_text()
        shapes = re.findall(r"tensor<([\dx]+)xf32>", program)
        sizes = [[int(size) for size in shape.split("x")] for shape in shapes]
        # Arrays over input positions, those of attention weights left out.
        encoder_sizes = [
            s for s in sizes if 29 in s and s.count(29) == 1 and 35 not in s
        ]
        return max(int(np.prod(s)) for s in encoder_sizes if 5 not in s)

    once = largest_per_position(scoring.make_score_fn)
    assert largest_per_position(naive_scores.make_score_fn) == 7 * once
    assert once <= 4 * 29 * 2 * 64  # layers times mlp_dim
