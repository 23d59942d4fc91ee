"""The loss: parity with T5X, weights, and what a mean over nothing is."""

import numpy as np
import optax
import pytest


@pytest.mark.slow
def test_loss_and_its_gradient_equal_those_of_t5x(tiny, loss_and_grad):
    (mean, metrics), grads = loss_and_grad(tiny.params, tiny.batch)
    # T5X's loss is the sum over target tokens, ours the mean.
    num_targets = tiny.batch["decoder_loss_weights"].sum()
    expected = tiny.reference["loss_z1e-4"]
    np.testing.assert_allclose(mean * num_targets, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_sum"], expected, rtol=1e-5)
    np.testing.assert_allclose(
        optax.global_norm(grads) * num_targets,
        tiny.reference["grad_global_norm"],
        rtol=1e-5,
    )


@pytest.mark.slow
def test_weights_select_targets(tiny, loss_and_grad, assert_close):
    """Two rows and the other two add up to the whole batch."""
    weights = tiny.batch["decoder_loss_weights"]
    is_first = (np.arange(4) < 2)[:, None]
    parts = [
        loss_and_grad(tiny.params, tiny.batch | {"decoder_loss_weights": part})[0]
        for part in (weights, np.where(is_first, weights, 0), weights * ~is_first)
    ]
    whole, first, second = (metrics for _, metrics in parts)
    for name in ("loss_sum", "weight_sum"):
        assert_close(first[name] + second[name], whole[name])
    for loss, metrics in parts:
        assert_close(loss, metrics["loss_sum"] / metrics["weight_sum"])


@pytest.mark.slow
def test_packed_rows_have_the_loss_of_the_rows_they_hold(
    tiny, loss_and_grad, assert_close
):
    weights = tiny.batch["decoder_loss_weights"].copy()
    weights[[0, 2]] = 0
    rows = tiny.batch | {"decoder_loss_weights": weights}
    (expected, _), _ = loss_and_grad(tiny.params, rows)
    (packed, _), _ = loss_and_grad(tiny.params, tiny.packed_batch)
    assert_close(packed, expected)


@pytest.mark.slow
def test_a_batch_without_targets_has_loss_and_gradient_zero(tiny, loss_and_grad):
    weights = np.zeros_like(tiny.batch["decoder_loss_weights"])
    batch = tiny.batch | {"decoder_loss_weights": weights}
    (mean, _), grads = loss_and_grad(tiny.params, batch)
    assert mean == 0
    assert optax.global_norm(grads) == 0


@pytest.mark.slow
def test_correct_targets_are_those_with_the_highest_logit(tiny, loss_and_grad):
    best = tiny.reference["logits"].argmax(-1).astype(np.int32)
    batch = tiny.batch | {"decoder_target_tokens": best}
    (_, metrics), _ = loss_and_grad(tiny.params, batch)
    assert metrics["correct_sum"] == metrics["weight_sum"] == 26
