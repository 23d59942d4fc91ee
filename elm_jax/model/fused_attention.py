"""Attention by NVIDIA's fused kernel, which holds no pairs of positions in memory.

JAX's own call of it (`jax.nn.dot_product_attention`, implementation "cudnn") lacks what
a T5 needs, up to jax 0.12:

- A mask [B, 1, 1, S] is refused, and any mask joined to a bias becomes a bias of
  [B, H, T, S]. Here, masks that are lengths stay lengths.
- The gradient of the bias is computed always, by a slower kernel. Here, it is where
  somebody differentiates by the bias: not where relative positions are frozen.
- Training needs even lengths. Here, odd ones are filled up by one.
- `vmap` refuses biases that it maps over unless they have all rows, and lengths of keys
  beside constant lengths of queries. Here, lanes become rows before it is called.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
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
      keys: bfloat16 [B, H, S, K].
      values: bfloat16 [B, H, S, K].
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
    kernel = _Kernel(is_causal)
    return kernel.over_lanes(kernel.mix, query, keys, values, bias, lengths)


def _forward(
    query: Any, keys: Any, values: Any, bias: Any, lengths: Any, is_causal: bool
) -> tuple[Array, Any]:
    parts = (query, keys, values, bias, lengths)
    arrays = [None if part is None else part.value for part in parts]
    kernel = _Kernel(is_causal, bias is not None and bias.perturbed)
    mixed, residual = kernel.over_lanes(kernel.mix_and_keep, *arrays)
    pull_back = functools.partial(kernel.over_lanes, kernel.gradients)
    return mixed, jax.tree_util.Partial(pull_back, *arrays, residual, mixed)


def _backward(is_causal: bool, pull_back: Any, grads: Any) -> tuple[Any, ...]:
    del is_causal
    if isinstance(grads, jax.custom_derivatives.SymbolicZero):
        return (None,) * 5
    return (*pull_back(grads), None, None)[:5]


_attend.defvjp(_forward, _backward, symbolic_zeros=True)


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """The kernel as JAX calls it, without lanes and without the bias's gradient.

    Its methods take queries, keys, values, bias and lengths as `_attend` does; the bias
    may have all rows or one.

    Attributes:
      is_causal: Whether a query sees no key behind its own position.
      has_bias_gradient: Whether gradients are of the bias, too.
    """

    is_causal: bool
    has_bias_gradient: bool = False

    def mix(self, *parts: Any) -> Array:
        """Returns the mixed values."""
        function, arrays, settings = self._call_of(*parts)
        return function(*arrays, *settings)

    def mix_and_keep(self, *parts: Any) -> tuple[Array, Array]:
        """Returns the mixed values, and the residual that gradients need."""
        function, arrays, settings = self._call_of(*parts)
        mixed, residuals = function.fwd(*arrays, *settings)
        return mixed, residuals[-2]

    def gradients(self, *parts: Any) -> tuple[Array, ...]:
        """Returns the gradients of queries, keys, values, and maybe of the bias.

        Args:
          *parts: As ever, then what `mix_and_keep` returned the other way round, and
            the gradient of the mixed values.
        """
        *inputs, residual, mixed, grads = parts
        function, arrays, settings = self._call_of(*inputs)
        of_parts = function.bwd(*settings, (*arrays, residual, mixed), grads)
        return tuple(of_parts[: 3 + self.has_bias_gradient])

    def over_lanes(self, method: Callable[..., Any], *parts: Any) -> Any:
        """Returns what a method of this kernel gives; under `vmap`, lanes become rows.

        Lanes that share a bias of one row call the kernel with that. Where each has its
        own, or is to have its own gradient, each row gets a copy of it.
        """
        call = jax.custom_batching.custom_vmap(method)

        @call.def_vmap
        def _(num_lanes: int, are_mapped: list[Any], *parts: Any) -> tuple[Any, Any]:
            num_rows, bias = parts[0].shape[-4], parts[3]
            has_one_row = _has_one_row(bias)
            is_shared = has_one_row and not (are_mapped[3] or self.has_bias_gradient)
            if has_one_row and not is_shared:
                bias = jnp.repeat(bias, num_rows, axis=-4)

            def as_rows(part: Array, is_mapped: bool) -> Array:
                if is_shared and part is bias:
                    return part
                if not is_mapped:
                    part = jnp.broadcast_to(part, (num_lanes, *part.shape))
                return part.reshape(-1, *part.shape[2:])

            rows = jax.tree.map(as_rows, [*parts[:3], bias, *parts[4:]], are_mapped)
            lanes = jax.tree.map(
                lambda out: out.reshape(num_lanes, -1, *out.shape[1:]), method(*rows)
            )
            if has_one_row and method == self.gradients and self.has_bias_gradient:
                of_bias = jnp.sum(lanes[3], axis=1, keepdims=True, dtype=jnp.float32)
                lanes = (*lanes[:3], of_bias.astype(bias.dtype))
            return lanes, jax.tree.map(lambda _: True, lanes)

        return call(*parts)

    def _call_of(
        self,
        query: Array,
        keys: Array,
        values: Array,
        bias: Array | None,
        lengths: Array | None,
    ) -> tuple[Any, list[Any], list[Any]]:
        """Returns JAX's function, its arguments that are arrays, and its settings."""
        unused = jnp.zeros(0, query.dtype)
        kinds = cudnn.MaskType
        if lengths is None:
            of_queries, of_keys = unused, unused
            kind = kinds.CAUSAL if self.is_causal else kinds.NO_MASK
        else:  # all queries count
            of_queries, of_keys = jnp.full_like(lengths, query.shape[1]), lengths
            kind = kinds.PADDING_CAUSAL if self.is_causal else kinds.PADDING
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
            "variadic_args": (bias is not None, self.has_bias_gradient),
            "mask_type": kind,
            "layout": cudnn.AttentionLayout.BTNH.value,
            "sliding_window_length": None,
            "score_mod": None,
            "cudnn_version": version or cudnn.check_cudnn_version(),
            "return_residual": False,
        }
        function = cudnn._dot_product_attention  # noqa: SLF001 - see above
        names = [*inspect.signature(function).parameters]
        unknown = sorted({*names} - values_of.keys())
        if unknown:
            raise NotImplementedError(f"this version of JAX wants {', '.join(unknown)}")
        every = [values_of[name] for name in names]
        num_arrays = names.index("scale")
        return function, every[:num_arrays], every[num_arrays:]


def _has_one_row(bias: Any) -> bool:
    return bias is not None and bias.shape[-4] == 1
