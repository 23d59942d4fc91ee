"""Beam search: several hypotheses per input, extended side by side.

Reference:
  `_beam_search` in transformers/generation/utils.py (transformers 5.23) and
  `beam_search` in t5x/decoding.py; where they differ, see
  `decoding_spec.BeamSearch`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from elm_jax.model import decoding_spec, stacks, t5
from elm_jax.types import EOS_ID, NOT_FINITE_ID, PAD_ID, Params

Array = jax.Array


class _Search(NamedTuple):
    """State before a position, N = num_beams; the best beams come first.

    What does not exist has a log-probability or score of -inf.
    """

    position: Array  # int32 scalar, the next one to decode
    live_tokens: Array  # int32 [B, N, T], hypotheses that go on
    live_log_probs: Array  # float32 [B, N], sums in nats
    done_tokens: Array  # int32 [B, N, T], hypotheses that ended
    done_scores: Array  # float32 [B, N], after the length penalty
    searching: Array  # bool [B]
    is_finite: Array  # bool [B], whether all logits so far were
    cache: stacks.DecodeCache  # of B * N rows


def make_search_fn(
    model: t5.T5, spec: decoding_spec.BeamSearch, *, max_decode_len: int
) -> Callable[[Params, Any], tuple[Array, Array]]:
    """Returns the compiled `(params, inputs) -> (tokens, scores)`.

    Inputs are int32 [B, S], tokens int32 [B, T] and scores float32 [B]: the best
    hypothesis of each input and its score after the length penalty. The end token is
    included and followed by 0. An input of padding alone gives zeros and -inf, one with
    logits that are not finite `NOT_FINITE_ID` and -inf. Of
    equal hypotheses the first wins: by beam, then by token id. An input's search ends
    by itself, so that the others of a batch change nothing.

    The beams of an input share its cross-attention keys and values; their own are
    reordered with the beams.
    """

    @jax.jit
    def search(params: Params, inputs: Array) -> tuple[Array, Array]:
        def is_under_way(state: _Search) -> Array:
            return (state.position < max_decode_len) & jnp.any(state.searching)

        def advance(state: _Search) -> _Search:
            step: Any = model.apply(
                {"params": params},
                inputs,
                _last_tokens(state).reshape(-1),
                state.position,
                state.cache,
                method=model.decode_step,
            )
            logits, cache = step
            return _extend(state, logits, cache, spec, max_decode_len)

        cache: Any = model.apply(
            {"params": params},
            inputs,
            max_decode_len=max_decode_len,
            rows_per_input=spec.num_beams,
            method=model.start_decoding,
        )
        start = _start(inputs, cache, spec.num_beams, max_decode_len)
        end = jax.lax.while_loop(is_under_way, advance, start)
        return _best(end, spec, max_decode_len)

    return search


def _start(
    inputs: Array, cache: stacks.DecodeCache, num_beams: int, max_decode_len: int
) -> _Search:
    shape = (len(inputs), num_beams)
    tokens = jnp.full((*shape, max_decode_len), PAD_ID, jnp.int32)
    # One beam at first: equal ones would find the same continuations again.
    log_probs = jnp.where(jnp.arange(num_beams) == 0, 0.0, -jnp.inf)
    return _Search(
        position=jnp.zeros((), jnp.int32),
        live_tokens=tokens,
        live_log_probs=jnp.broadcast_to(log_probs[None], shape),
        done_tokens=tokens,
        done_scores=jnp.full(shape, -jnp.inf),
        searching=jnp.any(inputs != PAD_ID, axis=1),
        is_finite=jnp.ones(len(inputs), bool),
        cache=cache,
    )


def _last_tokens(state: _Search) -> Array:
    """Returns the decoder's inputs [B, N] at the next position."""
    # At the start there is nothing but padding.
    last_position = jnp.maximum(state.position - 1, 0)
    return jax.lax.dynamic_index_in_dim(
        state.live_tokens, last_position, 2, keepdims=False
    )


def _extend(
    state: _Search,
    logits: Array,
    cache: stacks.DecodeCache,
    spec: decoding_spec.BeamSearch,
    max_decode_len: int,
) -> _Search:
    """Returns the search one position later; `logits` are [B * N, V]."""
    num_beams = spec.num_beams
    are_finite = jnp.isfinite(logits).reshape(len(state.searching), -1).all(axis=1)
    log_probs, beams, tokens = _continuations(state, logits)
    ends = tokens == EOS_ID
    rows = _gather(state.live_tokens, beams)
    rows = jax.lax.dynamic_update_slice_in_dim(
        rows, tokens[:, :, None], state.position, axis=2
    )

    may_end = ends
    if spec.rules == "huggingface":
        # At the greatest length all end; those past the beams are only a reserve.
        may_end = ends | (state.position + 1 == max_decode_len)
        may_end = may_end & (jnp.arange(ends.shape[1]) < num_beams)[None]
    may_end = may_end & state.searching[:, None]
    scores = _score(log_probs, state.position + 1, spec)
    scores = jnp.concatenate(
        [state.done_scores, jnp.where(may_end, scores, -jnp.inf)], axis=1
    )
    done_scores, best = jax.lax.top_k(scores, num_beams)
    done_tokens = _gather(jnp.concatenate([state.done_tokens, rows], axis=1), best)

    live_log_probs, best = jax.lax.top_k(
        jnp.where(ends, -jnp.inf, log_probs), num_beams
    )
    search = state._replace(
        position=state.position + 1,
        live_tokens=_gather(rows, best),
        live_log_probs=live_log_probs,
        done_tokens=done_tokens,
        done_scores=done_scores,
        is_finite=state.is_finite & (are_finite | ~state.searching),
        cache=_reorder(cache, _gather(beams, best)),
    )
    goes_on = _goes_on(search, spec, max_decode_len) & search.is_finite
    return search._replace(searching=goes_on)


def _continuations(state: _Search, logits: Array) -> tuple[Array, Array, Array]:
    """Returns log-probabilities, beams and tokens [B, 2 * N], the best first.

    Twice as many as beams, because one continuation of each beam may end it.
    """
    shape = state.live_log_probs.shape
    num_beams, vocab_size = shape[1], logits.shape[-1]
    log_probs = jax.nn.log_softmax(logits).reshape(*shape, vocab_size)
    log_probs = (log_probs + state.live_log_probs[:, :, None]).reshape(shape[0], -1)
    # A vocabulary may be too small for that many.
    missing = max(0, 2 * num_beams - log_probs.shape[1])
    log_probs = jnp.pad(log_probs, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    log_probs, chosen = jax.lax.top_k(log_probs, 2 * num_beams)
    beams = jnp.minimum(chosen // vocab_size, num_beams - 1)
    return log_probs, beams, (chosen % vocab_size).astype(jnp.int32)


def _goes_on(
    state: _Search, spec: decoding_spec.BeamSearch, max_decode_len: int
) -> Array:
    """Returns whether the search of an input may still find something, bool [B]."""
    worst_done = jnp.min(state.done_scores, axis=1)  # -inf while there are too few
    best_live = state.live_log_probs[:, 0]
    length = state.position
    if spec.early_stopping == "never" and spec.length_penalty > 0:
        length = jnp.full((), max_decode_len, jnp.int32)
    goes_on = state.searching & (_score(best_live, length, spec) > worst_done)
    if spec.early_stopping is True:
        goes_on = goes_on & jnp.isneginf(worst_done)
    return goes_on


def _best(
    end: _Search, spec: decoding_spec.BeamSearch, max_decode_len: int
) -> tuple[Array, Array]:
    """Returns each input's best hypothesis [B, T] and its score [B]."""
    tokens, scores = end.done_tokens[:, 0], end.done_scores[:, 0]
    if spec.rules == "t5x":
        length = jnp.full((), max_decode_len, jnp.int32)
        is_none = jnp.isneginf(scores) & end.searching
        cut = _score(end.live_log_probs[:, 0], length, spec)
        tokens = jnp.where(is_none[:, None], end.live_tokens[:, 0], tokens)
        scores = jnp.where(is_none, cut, scores)
    tokens = jnp.where(end.is_finite[:, None], tokens, NOT_FINITE_ID)
    return tokens, jnp.where(end.is_finite, scores, -jnp.inf)


def _score(log_probs: Array, length: Array, spec: decoding_spec.BeamSearch) -> Array:
    """Returns log-probabilities of hypotheses of a length after the penalty."""
    length = length.astype(jnp.float32)
    if spec.rules == "t5x":
        length = (5 + length) / 6
    return log_probs / length**spec.length_penalty


def _gather(items: Array, beams: Array) -> Array:
    """Returns [B, M, ...]: the elements of [B, N, ...] at places [B, M], by input."""
    return jax.vmap(lambda item, beam: item[beam])(items, beams)


def _reorder(cache: stacks.DecodeCache, beams: Array) -> stacks.DecodeCache:
    """Returns the cache with row `beams[b, n]` of input b as its row n."""

    def reorder(leaf: Array) -> Array:  # [L, B * N, H, T, K]
        # By input, so that inputs on several devices stay where they are.
        by_input = leaf.reshape(leaf.shape[0], *beams.shape, *leaf.shape[2:])
        choose = jax.vmap(lambda item, beam: item[:, beam], in_axes=(1, 0), out_axes=1)
        return choose(by_input, beams).reshape(leaf.shape)

    return cache._replace(targets=jax.tree.map(reorder, cache.targets))
