"""BERT's encoder as a pure function of named arrays, for sentence embeddings.

Shapes: B batch, S positions, D width, H heads, K width of a head, L layers, F width of
the hidden layer of the feed-forward part.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# By the name below `encoder.layer.<n>.` in a Hugging Face file.
_LAYER_PARTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The numbers of `config.json` that the encoder needs."""

    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float


def stack_layers(tensors: Mapping[str, np.ndarray], num_layers: int) -> dict[str, Any]:
    """Returns the parameters of `encode` from the tensors of a Hugging Face file.

    Layers are stacked on a leading axis, so that one layer is traced and compiled,
    not all of them. Dense kernels stay [out, in], as the file has them.

    Raises:
      KeyError: A tensor is missing.
    """
    kinds = ("weight", "bias")
    return {
        "embeddings": {
            name: tensors[f"embeddings.{name}"]
            for name in (
                "word_embeddings.weight",
                "position_embeddings.weight",
                "token_type_embeddings.weight",
                "LayerNorm.weight",
                "LayerNorm.bias",
            )
        },
        "layers": {
            f"{part}.{kind}": np.stack(
                [tensors[f"encoder.layer.{n}.{part}.{kind}"] for n in range(num_layers)]
            )
            for part in _LAYER_PARTS
            for kind in kinds
        },
    }


def encode(params: Mapping[str, Any], tokens: jax.Array, config: BertConfig) -> Any:
    """Returns the last layer's output, float32 [B, S, D].

    Args:
      params: What `stack_layers` returns.
      tokens: int32 [B, S]; negative ids are padding, which no position attends to.
      config: Numbers of layers and heads, epsilon.

    Reference: Devlin et al. 2018, arXiv:1810.04805; post-layer-norm transformer with
      learnt positions and the exact GELU.
    """
    mask = tokens >= 0
    parts = params["embeddings"]
    words = parts["word_embeddings.weight"][jnp.maximum(tokens, 0)]
    places = parts["position_embeddings.weight"][None, : tokens.shape[1]]
    types = parts["token_type_embeddings.weight"][None, :1]
    norm = (parts["LayerNorm.weight"], parts["LayerNorm.bias"])
    hidden = _layer_norm(words + places + types, *norm, config.layer_norm_eps)

    def layer(hidden: jax.Array, weights: Mapping[str, Any]) -> tuple[jax.Array, None]:
        return _layer(hidden, weights, mask, config), None

    return jax.lax.scan(layer, hidden, params["layers"])[0]


def pool_mean(hidden: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns unit vectors float32 [B, D]: the mean over positions, normalised.

    Args:
      hidden: float32 [B, S, D].
      tokens: int32 [B, S]; positions with negative ids do not count.
    """
    weights = (tokens >= 0).astype(hidden.dtype)[:, :, None]
    mean = jnp.sum(hidden * weights, axis=1) / jnp.sum(weights, axis=1)
    norm = jnp.sqrt(jnp.sum(mean * mean, axis=1, keepdims=True))
    return mean / jnp.maximum(norm, 1e-12)


def _layer(
    hidden: jax.Array, weights: Mapping[str, Any], mask: jax.Array, config: BertConfig
) -> jax.Array:
    def dense(part: str, values: jax.Array) -> jax.Array:
        kernel, bias = weights[f"{part}.weight"], weights[f"{part}.bias"]
        # Highest: accelerators otherwise round float32 factors to fewer bits.
        product = jnp.einsum("BSD,FD->BSF", values, kernel, precision="highest")
        return product + bias[None, None]

    def norm(part: str, values: jax.Array) -> jax.Array:
        scale, bias = weights[f"{part}.weight"], weights[f"{part}.bias"]
        return _layer_norm(values, scale, bias, config.layer_norm_eps)

    def heads(name: str) -> jax.Array:
        values = dense(f"attention.self.{name}", hidden)
        return values.reshape(*values.shape[:2], config.num_attention_heads, -1)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = jnp.einsum("BQHK,BSHK->BHQS", query, key, precision="highest")
    scores = jnp.where(mask[:, None, None], scores / np.sqrt(query.shape[-1]), -1e30)
    shares = jax.nn.softmax(scores, axis=-1)
    mixed = jnp.einsum("BHQS,BSHK->BQHK", shares, value, precision="highest")
    mixed = dense("attention.output.dense", mixed.reshape(hidden.shape))
    hidden = norm("attention.output.LayerNorm", hidden + mixed)
    inner = jax.nn.gelu(dense("intermediate.dense", hidden), approximate=False)
    return norm("output.LayerNorm", hidden + dense("output.dense", inner))


def _layer_norm(values: Any, scale: Any, bias: Any, epsilon: float) -> jax.Array:
    mean = jnp.mean(values, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(values - mean), axis=-1, keepdims=True)
    normal = (values - mean) * jax.lax.rsqrt(variance + epsilon)
    return normal * scale[None, None] + bias[None, None]
