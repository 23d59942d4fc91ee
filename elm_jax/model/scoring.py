"""Log-probabilities of answer choices, each input encoded once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from elm_jax.model import loss, t5
from elm_jax.types import PAD_ID, Params

Array = jax.Array

ScoreWithParamsFn = Callable[[Params, Any, Any, Any], Array]


def make_score_fn(model: t5.T5) -> ScoreWithParamsFn:
    """Returns the compiled `(params, inputs, choices, choice_mask) -> scores`.

    The scores are float32 [B, C]: the sum of the log-probabilities, in nats, of a
    choice's tokens, the end token among them; -inf where the mask is False. Inputs
    are int32 [B, S], choices int32 [B, C, T] and the mask bool [B, C]; 0 is padding.

    All choices of an input attend to one encoder output and to one set of keys and
    values, of which no copy is made.
    """

    @jax.jit
    def score(params: Params, inputs: Array, choices: Array, mask: Array) -> Array:
        variables = {"params": params}
        encoded: Any = model.apply(variables, inputs, method=model.encode)
        rows = choices.reshape(-1, choices.shape[-1])
        logits: Any = model.apply(
            variables, encoded, inputs, shift_right(rows), method=model.decode
        )
        return _choice_scores(logits, choices, mask)

    return score


def shift_right(targets: Array) -> Array:
    """Returns the decoder's inputs for targets [B, T]: a 0, then all but the last."""
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=PAD_ID)


def _choice_scores(logits: Array, choices: Array, mask: Array) -> Array:
    """Returns scores [B, C] from logits [B * C, T, V]."""
    logits = logits.reshape(*choices.shape, logits.shape[-1])
    losses, _ = loss.cross_entropy(logits, choices)
    sums = -jnp.sum(jnp.where(choices != PAD_ID, losses, 0), axis=-1)
    return jnp.where(mask, sums, -jnp.inf)
