"""Sampling: what the filters leave, how often it is drawn, and on what a draw hangs."""

import jax
import numpy as np
import pytest

from elm_jax.model import sampling
from elm_jax.model.decoding_spec import Sampling

# As in make_decode_golden.py.
FILTERS = [(0.7, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.8), (1.3, 9, 0.6), (1.0, 0, 1e-6)]


def shares_by_token(logits, spec):
    """Returns the distribution [B, V] of a draw."""
    values, tokens = sampling.candidates(logits, spec)
    shares = np.zeros(logits.shape, np.float32)
    np.put_along_axis(shares, np.asarray(tokens), jax.nn.softmax(values), axis=1)
    return shares


def plain_shares(logits, spec):
    """The same for one row, token by token."""
    odds = np.exp(logits.astype(np.float64) / spec.temperature)
    order = sorted(range(len(odds)), key=lambda token: (-odds[token], token))
    order = order[: spec.top_k or None]
    total, chosen, share = sum(odds[order]), [], 0.0
    for token in order:
        if share < spec.top_p:
            chosen.append(token)
        share += odds[token] / total
    shares = np.zeros(len(odds))
    shares[chosen] = odds[chosen] / sum(odds[chosen])
    return shares


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), FILTERS)
def test_filters_leave_what_hugging_face_leaves(
    decode_golden, temperature, top_k, top_p
):
    spec = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    shares = shares_by_token(decode_golden.arrays["logits"], spec)
    name = f"shares/temperature_{temperature}_top_k_{top_k}_top_p_{top_p}"
    # Float32 sums over 16 tokens.
    np.testing.assert_allclose(shares, decode_golden.arrays[name], atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_filters_leave_what_the_plain_way_leaves(seed):
    rng = np.random.default_rng(seed)
    # Rounded, so that there are ties.
    logits = np.round(rng.normal(size=(5, 23)), 1).astype(np.float32)
    spec = Sampling(
        temperature=float(rng.uniform(0.3, 2)),
        top_k=int(rng.integers(0, 30)),
        top_p=float(rng.uniform(0.2, 1)),
    )
    expected = [plain_shares(row, spec) for row in logits]
    np.testing.assert_allclose(shares_by_token(logits, spec), expected, atol=1e-6)


def test_only_the_first_of_equal_tokens_passes_a_border():
    shares = shares_by_token(np.zeros((1, 6), np.float32), Sampling(top_k=2))
    np.testing.assert_allclose(shares, [[0.5, 0.5, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    "spec", [Sampling(seed=3), Sampling(temperature=0.8, top_k=5, top_p=0.9, seed=3)]
)
def test_draws_follow_the_distribution(spec):
    logits = np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32)
    num_draws = 40_000
    draws = jax.jit(
        lambda ids: sampling.draw(
            jax.numpy.broadcast_to(logits, (num_draws, 8)), np.int32(4), ids, spec
        )
    )(np.arange(num_draws, dtype=np.int32))
    shares = np.bincount(np.asarray(draws), minlength=8) / num_draws
    expected = shares_by_token(logits, spec)[0]
    # Five standard errors of a share; by chance one seed in 200,000 is further off.
    bound = 5 * np.sqrt(expected * (1 - expected) / num_draws)
    assert np.all(np.abs(shares - expected) <= bound)


@pytest.mark.slow
def test_a_draw_hangs_on_seed_id_and_position_only():
    logits = np.random.default_rng(0).normal(size=(64, 50)).astype(np.float32)
    ids = np.arange(64, dtype=np.int32)

    def draw(*, seed=0, position=0, rows=ids):
        spec = Sampling(seed=seed)
        return np.asarray(sampling.draw(logits[rows], np.int32(position), rows, spec))

    first = draw()
    np.testing.assert_array_equal(draw(rows=ids[::-1]), first[::-1])
    np.testing.assert_array_equal(draw(rows=ids[5:6]), first[5:6])
    assert (draw(seed=1) != first).any()
    assert (draw(position=1) != first).any()
    same = np.zeros((64, 50), np.float32)
    others = sampling.draw(same, np.int32(0), ids, Sampling())
    assert len(set(np.asarray(others).tolist())) > 20
