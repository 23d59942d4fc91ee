"""Random choice of the next token: temperature, top-k and top-p."""

import jax
import jax.numpy as jnp

from elm_jax.model import decoding_spec

Array = jax.Array


def candidates(logits: Array, spec: decoding_spec.Sampling) -> tuple[Array, Array]:
    """Returns what may be drawn: logits [B, C] and the tokens [B, C] they belong to.

    The softmax of these logits is the distribution of the draw; those of tokens that
    `top_p` rules out are -inf. Sorted, likeliest first, if `top_k` or `top_p` is set.

    Args:
      logits: float32 [B, V].
      spec: What may be drawn.
    """
    logits = logits / spec.temperature
    vocab_size = logits.shape[-1]
    if not spec.top_k and spec.top_p == 1:
        return logits, jnp.broadcast_to(jnp.arange(vocab_size)[None], logits.shape)
    num_kept = min(spec.top_k or vocab_size, vocab_size)
    logits, tokens = jax.lax.top_k(logits, num_kept)
    shares = jax.nn.softmax(logits)
    share_before = jnp.cumsum(shares, axis=-1) - shares
    # The likeliest stays for any share above 0: nothing comes before it.
    return jnp.where(share_before < spec.top_p, logits, -jnp.inf), tokens


def draw(
    logits: Array, position: Array, example_ids: Array, spec: decoding_spec.Sampling
) -> Array:
    """Returns one token per row, int32 [B].

    Args:
      logits: float32 [B, V].
      position: int32 scalar, the target position.
      example_ids: int32 [B]; equal ids draw with equal randomness.
      spec: What may be drawn, and the seed.
    """
    values, tokens = candidates(logits, spec)

    def noise(example_id: Array) -> Array:
        example_rng = jax.random.fold_in(jax.random.key(spec.seed), example_id)
        return jax.random.gumbel(
            jax.random.fold_in(example_rng, position), values.shape[-1:]
        )

    # The greatest of logits plus Gumbel noise is a draw from their softmax.
    chosen = jnp.argmax(values + jax.vmap(noise)(example_ids), axis=-1)
    return jnp.take_along_axis(tokens, chosen[:, None], axis=-1)[:, 0]
