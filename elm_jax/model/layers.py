"""The parts of a T5 layer, with the parameter names and initialisers of T5X.

Parameters are float32; they and the activations are cast to `dtype` for each
product. Attention logits are not scaled by the root of the head width: the
initialiser of the query carries that factor.

Reference:
  Raffel et al., https://arxiv.org/abs/1910.10683; google-research/t5x,
  t5x/examples/t5/layers.py
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from elm_jax import float32_sums, parameters
from elm_jax.model import attention_logits, fused_attention, int8_kernels
from elm_jax.model import config as config_lib
from elm_jax.types import AdapterFn, NormFn

Array = jax.Array

_EPSILON = 1e-6
# Stands for minus infinity in attention logits; finite, so that a row of padding
# alone gives even weights and no NaN.
_MASKED = -1e10

_normal_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_truncated_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_relpos_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class KeysValues(NamedTuple):
    """What an attention attends to: both [B, H, S, K]."""

    keys: Array
    values: Array


class Dense(nn.Module):
    """A matrix product with `kernel` [inputs, features], or as int8; no bias."""

    features: int
    dtype: str
    kernel_init: nn.initializers.Initializer = _truncated_init

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [..., inputs] to [..., features]."""
        shape = (x.shape[-1], self.features)
        kernel = parameters.declare(self, "kernel", self.kernel_init, shape)
        # Two matrices: with more axes, XLA's CPU backend transposes the activations
        # in memory for the kernel's gradient, which costs more than the product.
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        if kernel.dtype == jnp.int8:
            scales: Any = self.get_variable("params", int8_kernels.SCALE)
            product = int8_kernels.product(rows, kernel, scales)
        else:
            product = float32_sums.product(rows, kernel)
        return product.reshape(*x.shape[:-1], self.features)


class LayerNorm(nn.Module):
    """Division by the root mean square, then a learnt `scale` [D]; no mean, no bias."""

    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, length, D] to the same shape; the statistics are float32."""
        scale = parameters.declare(self, "scale", nn.initializers.ones, x.shape[-1:])
        return float32_sums.scaled(_divided(x, self.dtype), scale)


def norm_at(
    adapters: AdapterFn | None, point: str, name: str, dtype: str
) -> Callable[[Array], Array]:
    """Returns the layer norm of a place, with a scale of its own or of the adapters.

    Args:
      adapters: Makes adapters, and perhaps what scales norms; None for none.
      point: The sub-layer behind it, or the stack whose last norm it is.
      name: The layer norm's name among the module's parameters.
      dtype: To compute in.
    """
    routed = None
    if isinstance(adapters, NormFn):
        routed = adapters.routed_norm(point, name=name)
    if routed is None:
        return LayerNorm(dtype, name=name)
    return lambda x: routed(_divided(x, dtype))


def _divided(x: Array, dtype: str) -> Array:
    """Returns [..., D] divided by its root mean square."""
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(mean_square + _EPSILON)).astype(dtype)


class Embedding(nn.Module):
    """A vector per token: `embedding` [V, D]."""

    config: config_lib.T5Config

    def setup(self) -> None:
        """Declares the table."""
        shape = (self.config.vocab_size, self.config.emb_dim)
        init = nn.initializers.normal(stddev=1.0)
        self.embedding = parameters.declare(self, "embedding", init, shape)

    def __call__(self, tokens: Array) -> Array:
        """Maps tokens [B, length] to vectors [B, length, D]."""
        return jnp.take(self.embedding, tokens, axis=0).astype(self.config.dtype)

    def attend(self, x: Array) -> Array:
        """Maps [B, T, D] to float32 logits [B, T, V], scaled as for a tied table."""
        logits = jnp.dot(x.astype(jnp.float32), self.embedding.T)
        return logits / np.float32(np.sqrt(self.config.emb_dim))


class Mlp(nn.Module):
    """The feed-forward block: input projections, activations, product, output."""

    config: config_lib.T5Config
    adapters: AdapterFn | None = None
    point: str = ""

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        """Maps [B, length, D] to the same shape."""
        config = self.config

        def adapt(part: str, inputs: Array, outputs: Array) -> Array:
            adapter = adapter_at(self.adapters, f"{self.point}/{part}", part)
            return adapter(inputs, outputs, deterministic=deterministic)

        parts = []
        for i, activation in enumerate(config.mlp_activations):
            name = "wi" if len(config.mlp_activations) == 1 else f"wi_{i}"
            part = Dense(config.mlp_dim, config.dtype, name=name)(x)
            part = adapt(name, x, part)
            if activation != "linear":
                part = getattr(nn, activation)(part)
            parts.append(part)
        hidden = adapt("hidden", x, functools.reduce(operator.mul, parts))
        hidden = Dropout(config)(hidden, deterministic=deterministic)
        out = Dense(config.emb_dim, config.dtype, name="wo")(hidden)
        return adapt("wo", hidden, out)


class Dropout(nn.Module):
    """Dropout that drops the same values at every position, as T5X does."""

    config: config_lib.T5Config

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        """Maps [..., length, features] to the same shape."""
        dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))
        return dropout(x, deterministic=deterministic)


class Attention(nn.Module):
    """Multi-head attention with kernels [D, H * K] and [H * K, D]."""

    config: config_lib.T5Config
    adapters: AdapterFn | None = None
    point: str = ""

    def setup(self) -> None:
        """Declares the projections."""
        config = self.config
        width, dtype = config.num_heads * config.head_dim, config.dtype
        self.query = Dense(width, dtype, kernel_init=_query_init(config.head_dim))
        self.key = Dense(width, dtype, kernel_init=_normal_init)
        self.value = Dense(width, dtype, kernel_init=_normal_init)
        self.out = Dense(config.emb_dim, dtype, kernel_init=_normal_init)
        self.dropout = Dropout(config)
        adapter = functools.partial(adapter_at, self.adapters)
        self.query_adapter = adapter(f"{self.point}/query", "query")
        self.key_adapter = adapter(f"{self.point}/key", "key")
        self.value_adapter = adapter(f"{self.point}/value", "value")
        self.out_adapter = adapter(f"{self.point}/out", "out")

    def keys_values(self, x: Array, *, deterministic: bool = True) -> KeysValues:
        """Returns what [B, S, D] offers to attention."""
        keys = self.key_adapter(x, self.key(x), deterministic=deterministic)
        values = self.value_adapter(x, self.value(x), deterministic=deterministic)
        return KeysValues(self._heads(keys), self._heads(values))

    def __call__(
        self,
        x: Array,
        attended: KeysValues,
        *,
        mask: Array | fused_attention.Spans,
        bias: Array | None = None,
        deterministic: bool,
    ) -> Array:
        """Maps queries' inputs [B, T, D] to the same shape.

        Args:
          x: Inputs of the queries.
          attended: Keys and values [B, H, S, K].
          mask: Booleans that broadcast to [B, H, T, S], True where a query may look;
            or lengths, for the fused kernel.
          bias: Added to the logits, float32 [1, H, T, S].
          deterministic: False drops attention weights.
        """
        query = self.query_adapter(x, self.query(x), deterministic=deterministic)
        query = self._heads(query)
        if not deterministic:
            config_lib.check_dropout(self.config)
        if isinstance(mask, fused_attention.Spans) or self._is_fused(mask):
            mixed = fused_attention.attend(query, *attended, mask, bias)
        elif self.config.attention == "dot_product":
            mixed = self._mix_by_dot_product(query, attended, mask, bias)
        else:
            mixed = self._mix_by_einsum(query, attended, mask, bias, deterministic)
        mixed = mixed.swapaxes(1, 2).reshape(*x.shape[:-1], -1)
        return self.out_adapter(mixed, self.out(mixed), deterministic=deterministic)

    def _mix_by_einsum(
        self,
        query: Array,
        attended: KeysValues,
        mask: Array,
        bias: Array | None,
        deterministic: bool,
    ) -> Array:
        """Returns the values [B, H, T, K], weighted for each query [B, H, T, K]."""
        logits = attention_logits.logits_of(query, attended.keys)
        if bias is not None:
            logits = attention_logits.add_bias(logits, bias)
        weights = nn.softmax(jnp.where(mask, logits, _MASKED))
        weights = weights.astype(self.config.dtype)
        if self.config.attention_dropout:
            weights = self.dropout(weights, deterministic=deterministic)
        return jnp.einsum("bhts,bhsk->bhtk", weights, attended.values)

    def _mix_by_dot_product(
        self,
        query: Array,
        attended: KeysValues,
        mask: Array,
        bias: Array | None,
    ) -> Array:
        """Does what `_mix_by_einsum` does, where no weight is dropped."""
        parts = (part.swapaxes(1, 2) for part in (query, *attended))
        bias = None if bias is None else bias.astype(self.config.dtype)
        mixed = jax.nn.dot_product_attention(*parts, bias=bias, mask=mask, scale=1.0)
        return mixed.swapaxes(1, 2)

    def _is_fused(self, mask: Array) -> bool:
        """Returns whether the kernel takes a mask of pairs, as of packed rows.

        One query at a time, as in decoding, has nothing to gain from it.
        """
        return self.config.attention == "cudnn" and mask.shape[2] > 1

    def _heads(self, x: Array) -> Array:
        """Maps [B, length, H * K] to [B, H, length, K]."""
        # Heads first, because products of adjacent matrices are the fast ones.
        heads = (self.config.num_heads, self.config.head_dim)
        return x.reshape(*x.shape[:-1], *heads).swapaxes(1, 2)


def adapter_at(
    adapters: AdapterFn | None, point: str, part: str
) -> Callable[..., Array]:
    """Returns the adapter of an insertion point, or one that changes nothing.

    Args:
      adapters: Makes adapters; None for none.
      point: Name of the insertion point.
      part: What the adapter adapts; its own name is `<part>_adapter`.
    """
    adapter = None if adapters is None else adapters(point, name=f"{part}_adapter")
    return _no_adapter if adapter is None else adapter


def _no_adapter(inputs: Array, outputs: Array, *, deterministic: bool) -> Array:
    del inputs, deterministic
    return outputs


class RelativePositionBias(nn.Module):
    """Attention bias by bucketed distance: `rel_embedding` [H, buckets]."""

    config: config_lib.T5Config
    bidirectional: bool

    @nn.compact
    def __call__(self, length: int) -> Array:
        """Returns the float32 bias [1, H, length, length] for queries by keys."""
        config = self.config
        shape = (config.num_heads, config.relpos_buckets)
        table = parameters.declare(self, "rel_embedding", _relpos_init, shape)
        distances = np.arange(1 - length, length + 1)
        buckets = relative_position_buckets(
            distances,
            bidirectional=self.bidirectional,
            num_buckets=config.relpos_buckets,
            max_distance=config.relpos_max_distance,
        )
        one_hot = np.eye(config.relpos_buckets, dtype=np.float32)[:, buckets]
        # A table that does not train may be in the compute dtype already.
        table = float32_sums.rounded(table, config.dtype).astype(jnp.float32)
        by_distance = jnp.dot(table, one_hot)
        return _spread_diagonals(by_distance, length)[None]


def relative_position_buckets(
    distances: np.ndarray, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Returns the bucket of each distance, key position minus query position.

    Half of the buckets hold one distance each, the other half grow with its
    logarithm up to `max_distance`. With `bidirectional`, positive distances have
    half of all buckets to themselves; without, they count as 0.

    >>> relative_position_buckets(np.array([-200, -1, 0, 1]), bidirectional=True,
    ...                           num_buckets=32, max_distance=128)
    array([15,  1,  0, 17])
    """
    offset = np.zeros_like(distances)
    behind = np.maximum(-distances, 0)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distances > 0, num_buckets, 0)
        behind = np.abs(distances)
    num_exact = num_buckets // 2
    # The epsilon keeps powers of two on the far side of their bucket's border.
    ratio = behind.astype(np.float32) / num_exact + np.finfo(np.float32).eps
    share = np.log(ratio) / np.log(max_distance / num_exact)
    coarse = num_exact + (share * (num_buckets - num_exact)).astype(np.int64)
    coarse = np.minimum(coarse, num_buckets - 1)
    return offset + np.where(behind < num_exact, behind, coarse)


def _spread_diagonals(by_distance: Array, length: int) -> Array:
    """Returns [H, length, length] with entry (q, k) taken at distance k - q.

    `by_distance` is [H, 2 * length], for distances from 1 - length up; the last is
    never taken. Its copies are laid end to end and cut into rows one element shorter
    than a copy, so that each row starts one distance earlier than the row above. (A
    gather would cost a scatter in the backward pass.)
    """
    num_heads, width = by_distance.shape
    flat = jnp.tile(by_distance, (1, length))[:, length - 1 : length * width - 1]
    return flat.reshape(num_heads, length, width - 1)[:, :, :length]


def _query_init(head_dim: int) -> nn.initializers.Initializer:
    def init(*args: Any) -> Array:
        return _normal_init(*args) / np.float32(np.sqrt(head_dim))

    return init
