"""Scores of answer choices in the plain way: each with an encoding of its own."""

from typing import Any

import jax
import jax.numpy as jnp

from elm_jax.model import loss, scoring, t5
from elm_jax.types import PAD_ID, Params

Array = jax.Array


def make_score_fn(model: t5.T5) -> scoring.ScoreWithParamsFn:
    """Returns what `scoring.make_score_fn` does, encoding the input once per choice."""

    @jax.jit
    def score(params: Params, inputs: Array, choices: Array, mask: Array) -> Array:
        rows = choices.reshape(-1, choices.shape[-1])
        repeated = jnp.repeat(inputs, choices.shape[1], axis=0)
        decoder_inputs = scoring.shift_right(rows)
        logits: Any = model.apply({"params": params}, repeated, decoder_inputs)
        losses, _ = loss.cross_entropy(logits, rows)
        sums = -jnp.sum(jnp.where(rows != PAD_ID, losses, 0), axis=-1)
        return jnp.where(mask, sums.reshape(mask.shape), -jnp.inf)

    return score
