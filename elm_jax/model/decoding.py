"""Greedy generation with cached keys and values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from elm_jax.model import stacks, t5
from elm_jax.types import EOS_ID, PAD_ID, Params

Array = jax.Array


class _Progress(NamedTuple):
    position: Array  # int32 scalar, the next one to decode
    last: Array  # int32 [B], the decoder's inputs there
    ended: Array  # bool [B]
    tokens: Array  # int32 [B, max_decode_len]
    cache: stacks.DecodeCache


def make_greedy_decode_fn(
    model: t5.T5, *, max_decode_len: int
) -> Callable[[Params, Any], Array]:
    """Returns the compiled `(params, inputs) -> tokens`.

    Inputs are int32 [B, S]; tokens int32 [B, max_decode_len]: the most likely token
    at each position given those before, the lowest id among equals. The end token is
    included and followed by 0; a row that does not end within `max_decode_len` has
    none, and a row of padding alone gives zeros. Decoding stops once all rows ended.
    """

    @jax.jit
    def decode(params: Params, inputs: Array) -> Array:
        variables = {"params": params}
        num_rows = inputs.shape[0]

        def is_under_way(now: _Progress) -> Array:
            return (now.position < max_decode_len) & ~jnp.all(now.ended)

        def advance(now: _Progress) -> _Progress:
            step: Any = model.apply(
                variables,
                inputs,
                now.last,
                now.position,
                now.cache,
                method=model.decode_step,
            )
            logits, cache = step
            best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            best = jnp.where(now.ended, PAD_ID, best)
            return _Progress(
                position=now.position + 1,
                last=best,
                ended=now.ended | (best == EOS_ID),
                tokens=jax.lax.dynamic_update_slice_in_dim(
                    now.tokens, best[:, None], now.position, axis=1
                ),
                cache=cache,
            )

        cache: Any = model.apply(
            variables,
            inputs,
            max_decode_len=max_decode_len,
            method=model.start_decoding,
        )
        start = _Progress(
            position=jnp.zeros((), jnp.int32),
            last=jnp.full((num_rows,), PAD_ID, jnp.int32),
            ended=jnp.all(inputs == PAD_ID, axis=1),
            tokens=jnp.full((num_rows, max_decode_len), PAD_ID, jnp.int32),
            cache=cache,
        )
        return jax.lax.while_loop(is_under_way, advance, start).tokens

    return decode
