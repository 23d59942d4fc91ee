"""Attention by NVIDIA's fused kernel, which holds no pairs of positions in memory.

JAX's own call of it (`jax.nn.dot_product_attention`, implementation "cudnn") lacks what
a T5 needs, up to jax 0.12:

- A mask [B, 1, 1, S] is refused, and any mask joined to a bias becomes a bias of
  [B, H, T, S]. Here, masks that are lengths stay lengths.
- The gradient of the bias is computed always, by a slower kernel. Here, it is where
  somebody differentiates by the bias: not where relative positions are frozen.
- Training needs even lengths. Here, odd ones are filled up by one.
- `vmap` refuses biases that it maps over unless they have all rows and heads, and
  lengths of keys beside constant lengths of queries.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as cudnn  # has no public name

from elm_jax import errors

Array = jax.Array

_assumed_versions: list[int] = []


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("lengths",),
    meta_fields=("is_causal",),
)
@dataclasses.dataclass(frozen=True)
class Spans:
    """A mask of which no pairs of positions are held.

    Attributes:
      lengths: int32 [B], how many keys of each row may be looked at, from the first
        on; at least 1. None for all.
      is_causal: Whether a query sees no key behind its own position.
    """

    lengths: Array | None
    is_causal: bool = False


def spans_of(is_token: Array) -> Spans:
    """Returns the mask of rows that have padding at their ends only.

    Args:
      is_token: bool [B, S]. In a row of padding alone, the first key may be looked at,
        so that numbers stay finite.
    """
    positions = jnp.arange(1, is_token.shape[1] + 1, dtype=jnp.int32)
    last = jnp.max(jnp.where(is_token, positions[None], 1), axis=1)
    return Spans(last)


@contextlib.contextmanager
def assuming(cudnn_version: int) -> Iterator[None]:
    """A context in which programs are traced for a GPU that is not here.

    Args:
      cudnn_version: As `cudnnGetVersion` gives it, such as 90800.
    """
    _assumed_versions.append(cudnn_version)
    try:
        yield
    finally:
        _assumed_versions.pop()


def attend(
    query: Array, keys: Array, values: Array, mask: Array | Spans, bias: Array | None
) -> Array:
    """Returns the values [B, H, T, K], weighted for each query.

    Args:
      query: bfloat16 [B, H, T, K], not to be scaled.
      keys: [B, H, S, K], as `values`.
      values: As `keys`.
      mask: Booleans [B, 1, T, S], True where a query may look, or lengths. Booleans
        take the memory that this kernel is to save: T * S numbers a head.
      bias: Added to the logits, [1, H, T, S]; None for nothing.

    Raises:
      ConfigError: There is no such kernel on this device, or for these shapes.
    """
    parts = [part.swapaxes(1, 2) for part in (query, keys, values)]
    length = query.shape[2]
    spans = mask if isinstance(mask, Spans) else Spans(None)
    if not isinstance(mask, Spans):
        bias = _joined(bias, mask, (len(query), query.shape[1], length, keys.shape[2]))
    lengths = spans.lengths
    if bias is not None:
        bias = bias.astype(query.dtype)
    parts, bias, lengths = _filled_up(parts, bias, lengths, spans.is_causal)
    try:
        mixed: Any = _attend(*parts, bias, lengths, spans.is_causal)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise errors.ConfigError(
            found=f"attention = 'cudnn', refused by JAX: {error}",
            expected="a device and a shape for which JAX has this attention",
            do="Set attention = 'dot_product' or 'einsum'",
        ) from error
    return mixed[:, :length].swapaxes(1, 2)


def _joined(bias: Array | None, mask: Array, shape: tuple[int, ...]) -> Array:
    """Returns bias and mask as one bias of all rows and heads."""
    lowest = cudnn.get_large_negative_number(jnp.dtype(jnp.bfloat16))
    blocked = jnp.where(mask, jnp.zeros((), lowest.dtype), lowest)
    whole = blocked if bias is None else bias.astype(lowest.dtype) + blocked
    return jnp.broadcast_to(whole, shape)


def _filled_up(
    parts: list[Array], bias: Array | None, lengths: Array | None, is_causal: bool
) -> tuple[list[Array], Array | None, Array | None]:
    """Returns even numbers of queries and keys; nobody looks at what is added."""
    num_keys = parts[1].shape[1]
    more = (parts[0].shape[1] % 2, num_keys % 2)
    if more == (0, 0):
        return parts, bias, lengths
    if more[1] and lengths is None and not is_causal:
        lengths = jnp.full(parts[0].shape[0], num_keys, jnp.int32)
    if bias is not None:
        bias = jnp.pad(bias, ((0, 0), (0, 0), *((0, n) for n in more)))
    added = (more[0], more[1], more[1])
    padded = [
        jnp.pad(part, ((0, 0), (0, n), (0, 0), (0, 0)))
        for part, n in zip(parts, added, strict=True)
    ]
    return padded, bias, lengths


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    query: Array,
    keys: Array,
    values: Array,
    bias: Array | None,
    lengths: Array | None,
    is_causal: bool,
) -> Array:
    """Returns [B, T, H, K] of queries [B, T, H, K] and keys and values [B, S, H, K]."""
    return _call(query, keys, values, bias, lengths, is_causal, False)


def _forward(
    query: Any, keys: Any, values: Any, bias: Any, lengths: Any, is_causal: bool
) -> tuple[Array, Any]:
    arrays = [part.value for part in (query, keys, values)]
    of_rows = None if lengths is None else lengths.value
    if bias is None or not bias.perturbed:
        fixed = None if bias is None else bias.value
        return jax.vjp(
            lambda q, k, v: _call(q, k, v, fixed, of_rows, is_causal, False), *arrays
        )
    return jax.vjp(
        lambda q, k, v, b: _call(q, k, v, b, of_rows, is_causal, True),
        *arrays,
        bias.value,
    )


def _backward(is_causal: bool, pull_back: Any, grads: Any) -> tuple[Any, ...]:
    del is_causal
    if isinstance(grads, jax.custom_derivatives.SymbolicZero):
        return (None,) * 5
    return (*pull_back(grads), None, None)[:5]


_attend.defvjp(_forward, _backward, symbolic_zeros=True)


def _call(
    query: Array,
    keys: Array,
    values: Array,
    bias: Array | None,
    lengths: Array | None,
    is_causal: bool,
    has_bias_gradient: bool,
) -> Array:
    """Calls the kernel as JAX does, but for the gradient of the bias."""
    unused = jnp.zeros(0, query.dtype)
    kinds = cudnn.MaskType
    if lengths is None:
        of_queries, of_keys = unused, unused
        kind = kinds.CAUSAL if is_causal else kinds.NO_MASK
    else:
        # All queries count. Made of the other lengths, so that `vmap` maps over both.
        of_queries, of_keys = 0 * lengths + query.shape[1], lengths
        kind = kinds.PADDING_CAUSAL if is_causal else kinds.PADDING
    version = _assumed_versions[-1] if _assumed_versions else None
    values_of = {
        "query": query,
        "key": keys,
        "value": values,
        "bias": unused if bias is None else bias,
        "q_seqlen": of_queries,
        "kv_seqlen": of_keys,
        "q_offsets": unused,
        "kv_offsets": unused,
        "page_table_k": unused,
        "page_table_v": unused,
        "score_mod_args": (),
        "scale": 1.0,
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (bias is not None, has_bias_gradient),
        "mask_type": kind,
        "layout": cudnn.AttentionLayout.BTNH.value,
        "sliding_window_length": None,
        "score_mod": None,
        "cudnn_version": version or cudnn.check_cudnn_version(),
        "return_residual": False,
    }
    function = cudnn._dot_product_attention  # noqa: SLF001 - see above
    names = inspect.signature(function).parameters
    unknown = sorted(names - values_of.keys())
    if unknown:
        raise NotImplementedError(f"this version of JAX wants {', '.join(unknown)}")
    return function(*(values_of[name] for name in names))
