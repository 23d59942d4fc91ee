"""Generation token by token, with cached keys and values."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from elm_jax.model import beam_search, decoding_spec, sampling, stacks, t5
from elm_jax.types import EOS_ID, NOT_FINITE_ID, PAD_ID, Params

Array = jax.Array

DecodeWithParamsFn = Callable[[Params, Any, Any], Array]

_ChooseFn = Callable[[Array, Array, Array], Array]


class _DecodeState(NamedTuple):
    position: Array  # int32 scalar, the next one to decode
    last: Array  # int32 [B], the decoder's inputs there
    ended: Array  # bool [B]
    tokens: Array  # int32 [B, T]
    cache: stacks.DecodeCache


def make_decode_fn(
    model: t5.T5, spec: decoding_spec.DecodingSpec, *, max_decode_len: int
) -> DecodeWithParamsFn:
    """Returns the compiled `(params, inputs, example_ids) -> tokens`.

    Inputs are int32 [B, S], ids int32 [B] (only sampling reads them), tokens int32
    [B, max_decode_len]. The end token is included and followed by 0; a row that
    does not end within `max_decode_len` has none, and a row of padding alone gives
    zeros. Decoding stops once all rows ended; a row ends with `NOT_FINITE_ID` where its
    logits are not finite, since any token chosen from such would be a wrong answer.

    Args:
      model: With adapters or without; the parameters are given later.
      spec: How tokens are chosen. Of equally good tokens the one with the lowest id
        is.
      max_decode_len: The greatest length, the end token counted.
    """
    if isinstance(spec, decoding_spec.BeamSearch) and not spec.is_greedy:
        search = beam_search.make_search_fn(model, spec, max_decode_len=max_decode_len)
        return lambda params, inputs, example_ids: search(params, inputs)[0]
    choose: _ChooseFn = _most_likely
    if isinstance(spec, decoding_spec.Sampling):
        choose = functools.partial(sampling.draw, spec=spec)

    @jax.jit
    def decode(params: Params, inputs: Array, example_ids: Array) -> Array:
        def is_under_way(state: _DecodeState) -> Array:
            return (state.position < max_decode_len) & ~jnp.all(state.ended)

        def advance(state: _DecodeState) -> _DecodeState:
            step: Any = model.apply(
                {"params": params},
                inputs,
                state.last,
                state.position,
                state.cache,
                method=model.decode_step,
            )
            logits, cache = step
            chosen = choose(logits, state.position, example_ids).astype(jnp.int32)
            is_finite = jnp.all(jnp.isfinite(logits), axis=-1)
            chosen = jnp.where(is_finite, chosen, NOT_FINITE_ID)
            chosen = jnp.where(state.ended, PAD_ID, chosen)
            return _DecodeState(
                position=state.position + 1,
                last=jnp.maximum(chosen, PAD_ID),
                ended=state.ended | (chosen == EOS_ID) | (chosen == NOT_FINITE_ID),
                tokens=jax.lax.dynamic_update_slice_in_dim(
                    state.tokens, chosen[:, None], state.position, axis=1
                ),
                cache=cache,
            )

        cache: Any = model.apply(
            {"params": params},
            inputs,
            max_decode_len=max_decode_len,
            method=model.start_decoding,
        )
        start = _DecodeState(
            position=jnp.zeros((), jnp.int32),
            last=jnp.full(inputs.shape[:1], PAD_ID, jnp.int32),
            ended=jnp.all(inputs == PAD_ID, axis=1),
            tokens=jnp.full((len(inputs), max_decode_len), PAD_ID, jnp.int32),
            cache=cache,
        )
        return jax.lax.while_loop(is_under_way, advance, start).tokens

    return decode


def _most_likely(logits: Array, position: Array, example_ids: Array) -> Array:
    del position, example_ids
    return jnp.argmax(logits, axis=-1)
