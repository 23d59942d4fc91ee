"""T5 1.1 encoder-decoder: tokens to logits.

Parameter names and shapes are those of T5X's `t5x.examples.t5`, except that the
layers of a stack lie on a leading axis below `layers`. Relative positions are
differences of indices; packing keeps the tokens of a segment adjacent, so positions
are accepted for T5X's batches and not needed.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from elm_jax import trees
from elm_jax.model import config as config_lib
from elm_jax.model import fused_attention, layers, stacks
from elm_jax.types import PAD_ID, AdapterFn, Params

Array = jax.Array

# How a model computes: models that differ in it alone have the same parameters.
_WITHOUT_PARAMETERS: dict[str, Any] = {
    "dtype": "float32",
    "dropout_rate": 0.0,
    "attention": "einsum",
    "attention_dropout": True,
    "logits_chunks": 1,
    "remat": "none",
    "scan_unroll": 1,
}


class T5(nn.Module):
    """The network, with adapters where `adapters` gives one for a point.

    Attributes:
      config: Shape and numerics.
      adapters: Makes the adapter of an insertion point; None for none anywhere.
      split_rows: Applied to what goes into and out of each layer, to keep rows on
        their devices while parameters that lie in parts are gathered.
    """

    config: config_lib.T5Config
    adapters: AdapterFn | None = None
    split_rows: stacks.SplitRowsFn = stacks.keep_rows

    def setup(self) -> None:
        """Declares the parts."""
        self.token_embedder = layers.Embedding(self.config)
        self.encoder = stacks.Encoder(self.config, self.adapters, self.split_rows)
        self.decoder = stacks.Decoder(
            self.config, self.adapters, self.token_embedder, self.split_rows
        )

    def __call__(
        self,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        *,
        encoder_segment_ids: Array | None = None,
        encoder_positions: Array | None = None,
        decoder_segment_ids: Array | None = None,
        decoder_positions: Array | None = None,
        deterministic: bool = True,
        gives_logits: bool = True,
    ) -> Array:
        """Returns float32 logits [B, T, V].

        Args:
          encoder_input_tokens: int32 [B, S]; 0 is padding, which the fused kernel
            knows at the end of rows only.
          decoder_input_tokens: int32 [B, T], the targets shifted right from a 0.
          encoder_segment_ids: int32 [B, S] if packed: 1, 2, ... and 0 for padding.
          encoder_positions: Not needed, see above.
          decoder_segment_ids: int32 [B, T], with `encoder_segment_ids`.
          decoder_positions: Not needed, see above.
          deterministic: False drops values; needs the key "dropout".
          gives_logits: False for what the output layer reads, [B, T, D]; see
            `output_kernel`.
        """
        del encoder_positions, decoder_positions
        encoded = self.encode(
            encoder_input_tokens,
            encoder_segment_ids=encoder_segment_ids,
            deterministic=deterministic,
        )
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            encoder_segment_ids=encoder_segment_ids,
            decoder_segment_ids=decoder_segment_ids,
            deterministic=deterministic,
            gives_logits=gives_logits,
        )

    def encode(
        self,
        encoder_input_tokens: Array,
        *,
        encoder_segment_ids: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Returns the encoder's output [B, S, D]; arbitrary where padding is."""
        if encoder_segment_ids is None:
            mask = self._mask_of(encoder_input_tokens)
        else:
            mask = _is_token(encoder_input_tokens)
            mask = mask & _same_segment(encoder_segment_ids, encoder_segment_ids)
        embedded = self.token_embedder(encoder_input_tokens)
        return self.encoder(embedded, mask, deterministic=deterministic)

    def decode(
        self,
        encoded: Array,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        *,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        deterministic: bool = True,
        gives_logits: bool = True,
    ) -> Array:
        """Returns float32 logits [B * C, T, V] for C target rows per input.

        Args:
          encoded: [B, S, D] from `encode`.
          encoder_input_tokens: int32 [B, S]; tells where the padding is.
          decoder_input_tokens: int32 [B * C, T]; the C rows of an input lie
            together. Keys and values of the inputs are computed and kept once
            per input.
          encoder_segment_ids: int32 [B, S] if packed, which needs C = 1.
          decoder_segment_ids: int32 [B, T], with `encoder_segment_ids`.
          deterministic: False drops values; needs the key "dropout".
          gives_logits: False for what the output layer reads, [B * C, T, D].
        """
        length = decoder_input_tokens.shape[1]
        own_mask: stacks.Mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if encoder_segment_ids is not None and decoder_segment_ids is not None:
            is_same = _same_segment(decoder_segment_ids, decoder_segment_ids)
            own_mask = own_mask & is_same
            is_same = _same_segment(decoder_segment_ids, encoder_segment_ids)
            cross_mask = _is_token(encoder_input_tokens) & is_same
        else:
            cross_mask = self._mask_of(encoder_input_tokens)
            if isinstance(cross_mask, fused_attention.Spans):
                own_mask = fused_attention.Spans(None, is_causal=True)
        return self.decoder(
            decoder_input_tokens,
            _without_padding(encoded, encoder_input_tokens),
            own_mask,
            cross_mask,
            deterministic=deterministic,
            gives_logits=gives_logits,
        )

    def start_decoding(
        self,
        encoder_input_tokens: Array,
        *,
        max_decode_len: int,
        rows_per_input: int = 1,
    ) -> stacks.DecodeCache:
        """Returns the cache for decoding [B, S] inputs token by token.

        Keys and values of an input exist once, however many target rows it has.
        """
        encoded = self.encode(encoder_input_tokens)
        encoded = _without_padding(encoded, encoder_input_tokens)
        return self.decoder.start(encoded, max_decode_len, rows_per_input)

    def decode_step(
        self,
        encoder_input_tokens: Array,
        tokens: Array,
        position: Array,
        cache: stacks.DecodeCache,
    ) -> tuple[Array, stacks.DecodeCache]:
        """Returns float32 logits [B * C, V] after one more target position.

        Args:
          encoder_input_tokens: int32 [B, S] that the cache was started with.
          tokens: int32 [B * C], the decoder's inputs at `position`; the C rows of an
            input lie together.
          position: int32 scalar, 0 for the first.
          cache: Filled up to `position - 1`.
        """
        mask = _is_token(encoder_input_tokens)
        logits, cache = self.decoder.step(tokens[:, None], cache, position, mask)
        return logits[:, 0], cache

    def _mask_of(self, tokens: Array) -> stacks.Mask:
        """Returns where queries may look: at tokens [B, S] that are not padding."""
        # Drawing parameters must work where there is no GPU, too.
        if self.config.attention == "cudnn" and not self.is_initializing():
            return fused_attention.spans_of(tokens != PAD_ID)
        return _is_token(tokens)


def output_kernel(config: config_lib.T5Config, params: Params) -> Array:
    """Returns the float32 matrix [D, V] that makes logits of the last activations."""
    if not config.logits_via_embedding:
        return params["decoder"]["logits_dense"]["kernel"].astype(jnp.float32)
    table = params["token_embedder"]["embedding"].astype(jnp.float32)
    return table.T / math.sqrt(config.emb_dim)


def init_params(model: T5, *, seed: int, shardings: Params | None = None) -> Params:
    """Returns float32 parameters drawn by T5X's initialisers from `seed`.

    Args:
      model: The network.
      seed: Decides every value.
      shardings: By name, of all parameters or of those wanted; no device
        then holds more than its own. The values are the same everywhere.
    """
    if shardings is None:
        return _init(model, jax.random.key(seed))
    # The same function each time, so that further seeds compile nothing.
    init = jax.jit(_init_some, static_argnums=(0, 1), out_shardings=dict(shardings))
    return init(model, tuple(trees.flatten(shardings)), jax.random.key(seed))


def param_shapes(model: T5) -> Params:
    """Returns the parameters as jax.ShapeDtypeStruct leaves; computes nothing."""
    shape = dataclasses.replace(model.config, **_WITHOUT_PARAMETERS)
    plain: Any = T5(shape, model.adapters)
    # One trace for callers that are strict about dtypes and those that are not.
    with jax.numpy_dtype_promotion("standard"):
        return _init.eval_shape(plain, jax.eval_shape(jax.random.key, 0))


@functools.partial(jax.jit, static_argnums=0)
def _init(model: T5, rng: Array) -> Params:
    tokens = jnp.ones((1, 1), jnp.int32)
    return model.init(rng, tokens, tokens)["params"]


def _init_some(model: T5, names: tuple[str, ...], rng: Array) -> Params:
    leaves = trees.flatten(_init(model, rng))
    return trees.unflatten({name: leaves[name] for name in names})


def _is_token(tokens: Array) -> Array:
    return (tokens != PAD_ID)[:, None, None, :]


def _same_segment(queries: Array, keys: Array) -> Array:
    return (queries[:, None, :, None] == keys[:, None, None, :]) & (
        keys[:, None, None, :] != PAD_ID
    )


def _without_padding(encoded: Array, tokens: Array) -> Array:
    """Returns zeros where padding is: weight 0 times NaN would still be NaN."""
    return jnp.where((tokens != PAD_ID)[:, :, None], encoded, 0)
