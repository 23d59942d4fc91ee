"""Encoder and decoder: layers, stacked on a leading axis and scanned.

A sub-layer is norm, block, adapter (where the model has one), dropout, residual.
Further adapters sit at the projections inside of a block.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from elm_jax.model import config as config_lib
from elm_jax.model import fused_attention, layers
from elm_jax.types import LAYERS, AdapterFn

Array = jax.Array
Mask = Array | fused_attention.Spans


SplitRowsFn = Callable[[Array], Array]
"""Says where activations [rows, length, D] lie: rows split over devices, or nothing."""


def keep_rows(x: Array) -> Array:
    """Returns activations unchanged; the compiler decides where they lie."""
    return x


class DecodeCache(NamedTuple):
    """Keys and values of all decoder layers.

    `targets` [L, B * C, H, T, K] has one slot per target position, filled up to the
    current one, for C target rows per input; `cross` [L, B, H, S, K] is of the inputs.
    """

    targets: layers.KeysValues
    cross: layers.KeysValues


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward block."""

    config: config_lib.T5Config
    adapters: AdapterFn | None
    split_rows: SplitRowsFn = keep_rows

    def setup(self) -> None:
        """Declares the blocks; attribute names are parameter names."""
        config, adapters = self.config, self.adapters
        if config.relpos_per_layer:
            self.relpos_bias = _relpos_bias(config, bidirectional=True)
        point = "encoder/self_attention"
        self.pre_attention_layer_norm = _norm_before(self, point, "attention")
        self.attention = layers.Attention(config, adapters, point)
        self.attention_adapter = layers.adapter_at(adapters, point, "attention")
        self.pre_mlp_layer_norm = _norm_before(self, "encoder/mlp", "mlp")
        self.mlp = layers.Mlp(config, adapters, "encoder/mlp")
        self.mlp_adapter = layers.adapter_at(adapters, "encoder/mlp", "mlp")
        self.dropout = layers.Dropout(config)

    def __call__(
        self, x: Array, mask: Mask, bias: Array | None, deterministic: bool
    ) -> tuple[Array, None]:
        """Maps [B, S, D] to the same shape; the None is what `scan` would stack.

        `bias` is None where each layer has its own.
        """
        x = self.split_rows(x)
        if bias is None:
            bias = self.relpos_bias(x.shape[1])
        y = self.pre_attention_layer_norm(x)
        out = self.attention(
            y,
            self.attention.keys_values(y, deterministic=deterministic),
            mask=mask,
            bias=bias,
            deterministic=deterministic,
        )
        y = self.attention_adapter(y, out, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)

        y = self.pre_mlp_layer_norm(x)
        out = self.mlp(y, deterministic=deterministic)
        y = self.mlp_adapter(y, out, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        return self.split_rows(x), None


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's output, and feed-forward block."""

    config: config_lib.T5Config
    adapters: AdapterFn | None
    split_rows: SplitRowsFn = keep_rows

    def setup(self) -> None:
        """Declares the blocks; attribute names are parameter names."""
        config, adapters = self.config, self.adapters
        if config.relpos_per_layer:
            self.relpos_bias = _relpos_bias(config, bidirectional=False)
        point = "decoder/self_attention"
        self.pre_self_attention_layer_norm = _norm_before(self, point, "self_attention")
        self.self_attention = layers.Attention(config, adapters, point)
        self.self_attention_adapter = layers.adapter_at(
            adapters, point, "self_attention"
        )
        point = "decoder/cross_attention"
        self.pre_cross_attention_layer_norm = _norm_before(
            self, point, "cross_attention"
        )
        self.encoder_decoder_attention = layers.Attention(config, adapters, point)
        self.cross_attention_adapter = layers.adapter_at(
            adapters, point, "cross_attention"
        )
        self.pre_mlp_layer_norm = _norm_before(self, "decoder/mlp", "mlp")
        self.mlp = layers.Mlp(config, adapters, "decoder/mlp")
        self.mlp_adapter = layers.adapter_at(adapters, "decoder/mlp", "mlp")
        self.dropout = layers.Dropout(config)

    def __call__(
        self,
        x: Array,
        encoded: Array,
        own_mask: Mask,
        cross_mask: Mask,
        bias: Array | None,
        deterministic: bool,
    ) -> tuple[Array, None]:
        """Maps [B * C, T, D] to the same shape; `encoded` is [B, S, D].

        `bias` is None where each layer has its own.
        """
        x = self.split_rows(x)
        if bias is None:
            bias = self.relpos_bias(x.shape[1])
        cross = self.encoder_decoder_attention.keys_values(
            encoded, deterministic=deterministic
        )
        x, _ = self._sub_layers(
            x, lambda new: new, cross, own_mask, cross_mask, bias, deterministic
        )
        return x, None

    def cross_keys_values(
        self, carry: None, encoded: Array
    ) -> tuple[None, layers.KeysValues]:
        """Returns what `encoded` offers to this layer, [B, H, S, K] each."""
        return carry, self.encoder_decoder_attention.keys_values(encoded)

    def step(
        self,
        x: Array,
        cache: DecodeCache,
        position: Array,
        mask: Array,
        bias: Array | None,
    ) -> tuple[Array, layers.KeysValues]:
        """Maps one target position [B, 1, D]; returns it and its layer's `targets`."""
        x = self.split_rows(x)
        length = cache.targets.keys.shape[2]
        if bias is None:
            bias = _bias_at(self.relpos_bias(length), position)

        def extend(new: layers.KeysValues) -> layers.KeysValues:
            write = jax.lax.dynamic_update_slice_in_dim
            pairs = zip(cache.targets, new, strict=True)
            return layers.KeysValues(*(write(o, n, position, 2) for o, n in pairs))

        own_mask = (jnp.arange(length) <= position)[None, None, None]
        return self._sub_layers(x, extend, cache.cross, own_mask, mask, bias, True)

    def _sub_layers(
        self,
        x: Array,
        extend: Callable[[layers.KeysValues], layers.KeysValues],
        cross: layers.KeysValues,
        own_mask: Mask,
        cross_mask: Mask,
        bias: Array,
        deterministic: bool,
    ) -> tuple[Array, layers.KeysValues]:
        y = self.pre_self_attention_layer_norm(x)
        own_keys_values = extend(
            self.self_attention.keys_values(y, deterministic=deterministic)
        )
        out = self.self_attention(
            y, own_keys_values, mask=own_mask, bias=bias, deterministic=deterministic
        )
        y = self.self_attention_adapter(y, out, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)

        # Decoder rows of one input lie side by side as further queries to the same
        # keys, so that keys and values exist once per input.
        y = self.pre_cross_attention_layer_norm(x)
        rows = y.reshape(cross.keys.shape[0], -1, y.shape[-1])
        out = self.encoder_decoder_attention(
            rows, cross, mask=cross_mask, deterministic=deterministic
        )
        out = out.reshape(x.shape)
        y = self.cross_attention_adapter(y, out, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)

        y = self.pre_mlp_layer_norm(x)
        out = self.mlp(y, deterministic=deterministic)
        y = self.mlp_adapter(y, out, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        return self.split_rows(x), own_keys_values


class Encoder(nn.Module):
    """Layers over embedded inputs, and a final norm."""

    config: config_lib.T5Config
    adapters: AdapterFn | None
    split_rows: SplitRowsFn = keep_rows

    def setup(self) -> None:
        """Declares the stack."""
        config = self.config
        if not config.relpos_per_layer:
            self.relpos_bias = _relpos_bias(config, bidirectional=True)
        layer = _remat(EncoderLayer, config, num_args=4)
        each, to_all = _per_layer(self, config.num_encoder_layers), nn.broadcast
        scanned = nn.scan(
            layer, methods={"__call__": each | {"in_axes": (to_all,) * 3}}
        )
        self.layers = scanned(config, self.adapters, self.split_rows, name=LAYERS)
        self.encoder_norm = layers.norm_at(
            self.adapters, "encoder", "encoder_norm", config.dtype
        )
        self.dropout = layers.Dropout(config)

    def __call__(self, x: Array, mask: Mask, *, deterministic: bool) -> Array:
        """Maps embedded inputs [B, S, D] to the same shape."""
        x = self.dropout(x, deterministic=deterministic)
        shared = not self.config.relpos_per_layer
        bias = self.relpos_bias(x.shape[1]) if shared else None
        x, _ = self.layers(x, mask, bias, deterministic)
        return self.dropout(self.encoder_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """Layers over embedded targets, a final norm and the output layer."""

    config: config_lib.T5Config
    adapters: AdapterFn | None
    embedding: layers.Embedding
    split_rows: SplitRowsFn = keep_rows

    def setup(self) -> None:
        """Declares the stack."""
        config = self.config
        if not config.relpos_per_layer:
            self.relpos_bias = _relpos_bias(config, bidirectional=False)
        layer = _remat(DecoderLayer, config, num_args=6)
        each, to_all = _per_layer(self, config.num_decoder_layers), nn.broadcast
        scanned = nn.scan(
            layer,
            methods={
                "__call__": each | {"in_axes": (to_all,) * 5},
                "cross_keys_values": each | {"in_axes": to_all},
                "step": each | {"in_axes": (0, to_all, to_all, to_all)},
            },
        )
        self.layers = scanned(config, self.adapters, self.split_rows, name=LAYERS)
        self.decoder_norm = layers.norm_at(
            self.adapters, "decoder", "decoder_norm", config.dtype
        )
        self.dropout = layers.Dropout(config)
        if not config.logits_via_embedding:
            self.logits_dense = layers.Dense(config.vocab_size, "float32")

    def __call__(
        self,
        tokens: Array,
        encoded: Array,
        own_mask: Mask,
        cross_mask: Mask,
        *,
        deterministic: bool,
        gives_logits: bool = True,
    ) -> Array:
        """Maps target tokens [B * C, T] to logits [B * C, T, V], or what gives them."""
        y = self.dropout(self.embedding(tokens), deterministic=deterministic)
        shared = not self.config.relpos_per_layer
        bias = self.relpos_bias(tokens.shape[1]) if shared else None
        y, _ = self.layers(y, encoded, own_mask, cross_mask, bias, deterministic)
        y = self._last(y, deterministic)
        return self._logits(y) if gives_logits else y

    def start(self, encoded: Array, length: int, rows_per_input: int) -> DecodeCache:
        """Returns the cache before the first of `length` target positions."""
        _, cross = self.layers.cross_keys_values(None, encoded)
        num_layers, batch, num_heads, _, head_dim = cross.keys.shape
        shape = (num_layers, batch * rows_per_input, num_heads, length, head_dim)
        empty = jnp.zeros(shape, cross.keys.dtype)
        return DecodeCache(layers.KeysValues(empty, empty), cross)

    def step(
        self, tokens: Array, cache: DecodeCache, position: Array, mask: Array
    ) -> tuple[Array, DecodeCache]:
        """Maps the tokens [B, 1] of one position to logits [B, 1, V] and the cache."""
        bias = None
        if not self.config.relpos_per_layer:
            bias = _bias_at(self.relpos_bias(cache.targets.keys.shape[3]), position)
        y = self.embedding(tokens)
        y, keys_values = self.layers.step(y, cache, position, mask, bias)
        return self._logits(self._last(y, True)), cache._replace(targets=keys_values)

    def _last(self, y: Array, deterministic: bool) -> Array:
        return self.dropout(self.decoder_norm(y), deterministic=deterministic)

    def _logits(self, y: Array) -> Array:
        if self.config.logits_via_embedding:
            return self.embedding.attend(y)
        return self.logits_dense(y)


def _norm_before(
    layer: EncoderLayer | DecoderLayer, point: str, part: str
) -> Callable[[Array], Array]:
    name = f"pre_{part}_layer_norm"
    return layers.norm_at(layer.adapters, point, name, layer.config.dtype)


def _relpos_bias(
    config: config_lib.T5Config, *, bidirectional: bool
) -> layers.RelativePositionBias:
    return layers.RelativePositionBias(config, bidirectional=bidirectional)


def _bias_at(bias: Array, position: Array) -> Array:
    """Returns the bias [1, H, 1, S] of the query at a position, of [1, H, T, S]."""
    return jax.lax.dynamic_slice_in_dim(bias, position, 1, axis=2)


def _per_layer(stack: "Encoder | Decoder", num_layers: int) -> dict[str, Any]:
    # Flax traces a layer once more to look for what all layers share, which is nothing.
    # What is drawn, initial parameters and dropout, depends on that: a seed must go on
    # to mean what it meant.
    draws = stack.has_rng("params") or stack.has_rng("dropout")
    return {
        "variable_axes": {"params": 0, "intermediates": 0},
        "split_rngs": {"params": True, "dropout": True},
        "check_constancy_invariants": draws,
        "length": num_layers,
        "unroll": min(stack.config.scan_unroll, num_layers),
    }


def _remat(
    layer: type[nn.Module], config: config_lib.T5Config, *, num_args: int
) -> type[nn.Module]:
    """Returns the layer, keeping for the backward pass what the config says."""
    if config.remat == "none":
        return layer
    keep_products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    # The last argument, whether dropout is off, is no array. Inside a scan nothing
    # could merge the recomputed with the first computation, so no guard is needed.
    return nn.remat(
        layer,
        policy=keep_products if config.remat == "products" else None,
        prevent_cse=False,
        static_argnums=(num_args,),
        methods=["__call__"],
    )
