"""Effects of the few experts that each token has a weight for, and of no others.

Pairs of a token and one of its experts are sorted by expert and cut into blocks of one
expert each, the last block of an expert filled up. A block is one product of matrices
with the parameters of its expert, so that work and memory grow with the pairs, not with
tokens times experts. Shapes are known beforehand: so many blocks as pairs may need,
however they are spread over the experts.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from elm_jax.types import Params

Array = jax.Array
# Takes parameters of one expert, inputs and outputs [rows, ...], gives its effect.
EffectFn = Callable[[Params, Array, Array], Array]

_MOST_ROWS = 64  # of a block: more rows are no faster, and more of them are empty


class Blocks(NamedTuple):
    """The blocks of some pairs of tokens and experts.

    Attributes:
      expert: Int [blocks], whose parameters each needs.
      token: Int [blocks, rows], the token of each row; 0 in rows that are not used.
      slot: Int [tokens, chosen], the row of each pair, counted over all blocks.
    """

    expert: Array
    token: Array
    slot: Array


def rows_of_block(num_pairs: int, num_experts: int) -> int:
    """Returns how many rows blocks have: about half of an expert's even share.

    >>> rows_of_block(num_pairs=8192, num_experts=64), rows_of_block(2, 64)
    (64, 1)
    """
    share = max(1.0, num_pairs / num_experts / 2)
    return min(_MOST_ROWS, 2 ** int(math.log2(share)))


def num_blocks(num_pairs: int, num_experts: int) -> int:
    """Returns the most blocks that pairs may need, however they are spread.

    >>> num_blocks(num_pairs=8192, num_experts=64)
    191
    """
    rows = rows_of_block(num_pairs, num_experts)
    return (num_pairs + min(num_experts, num_pairs) * (rows - 1)) // rows


def blocks_of(chosen: Array, num_experts: int) -> Blocks:
    """Returns the blocks of the experts that tokens chose.

    Args:
      chosen: Int [tokens, chosen], numbers of experts.
      num_experts: All there are.
    """
    pairs = chosen.reshape(-1)
    rows = rows_of_block(len(pairs), num_experts)
    count = num_blocks(len(pairs), num_experts)
    order = jnp.argsort(pairs, stable=True)
    ordered = pairs[order]
    sizes = jnp.bincount(pairs, length=num_experts)
    ends = jnp.cumsum(-(-sizes // rows))  # of each expert's blocks
    first_pair = jnp.cumsum(sizes) - sizes
    first_block = ends - -(-sizes // rows)
    within = jnp.arange(len(pairs)) - first_pair[ordered]
    places = first_block[ordered] * rows + within
    slots = jnp.zeros_like(pairs).at[order].set(places)
    tokens = jnp.zeros(count * rows, jnp.int32)
    tokens = tokens.at[places].set(order // chosen.shape[-1])
    experts = jnp.searchsorted(ends, jnp.arange(count), side="right")
    return Blocks(
        jnp.minimum(experts, num_experts - 1),
        tokens.reshape(count, rows),
        slots.reshape(chosen.shape),
    )


def mix(
    effect: EffectFn,
    params: Params,
    inputs: Array,
    outputs: Array,
    weights: Array,
    *,
    top_k: int,
) -> Array:
    """Returns the outputs with the weighted effects of each token's experts.

    The same as `AdapterKind.mix`, up to the rounding of sums, where no token has more
    than `top_k` weights that are not 0. Tokens of all rows share blocks; on several
    devices, which split a batch, XLA brings them together for it.

    Args:
      effect: Of one expert.
      params: Of all adapters, each leaf [experts, ...].
      inputs: [..., inputs].
      outputs: [..., outputs].
      weights: [..., experts], in the dtype of the outputs.
      top_k: The most experts that a token has.
    """
    num_experts = weights.shape[-1]
    rows = weights.reshape(-1, num_experts)
    # Weights of routers of one's own may be negative.
    _, chosen = jax.lax.top_k(jnp.abs(rows), top_k)
    chosen_weights = jnp.take_along_axis(rows, chosen, axis=-1)
    blocks = blocks_of(chosen, num_experts)
    read = inputs.reshape(-1, inputs.shape[-1])[blocks.token]
    token_outputs = outputs.reshape(-1, outputs.shape[-1])
    of_blocks = jax.tree.map(lambda leaf: leaf[blocks.expert], params)
    effects = jax.vmap(effect)(of_blocks, read, token_outputs[blocks.token])
    of_pairs = effects.reshape(-1, effects.shape[-1])[blocks.slot]
    added = jnp.einsum("tk,tkd->td", chosen_weights, of_pairs)
    return outputs + added.reshape(outputs.shape)
