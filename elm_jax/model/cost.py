"""Operations and bytes of a model, estimated from its shape alone."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from elm_jax import trees
from elm_jax.model import config as config_lib
from elm_jax.types import LAYERS, Params

_EMBEDDING = "token_embedder/embedding"
# Where the last product of a layer is: in the first of these that is there.
_LAST = ("/mlp_adapter/", "/mlp/wo_adapter/", "/mlp/wo/kernel")
# Weights of the decoder that see each position of the inputs.
_FROM_INPUTS = r"encoder_decoder_attention/(key|value)(_adapter)?/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
    """A batch: inputs [batch_size, inputs_length] and targets likewise."""

    batch_size: int
    inputs_length: int
    targets_length: int


class _Product(NamedTuple):
    """A matrix product of the model, of all its layers together."""

    flops: int
    is_in_layer: bool
    has_weight: bool
    is_trained: bool
    name: str


def forward_flops(
    config: config_lib.T5Config, shape: BatchShape, params: Params
) -> int:
    """Returns the operations of one forward pass, a multiply-add counting as two.

    Matrix products only, which is nearly all; padding counts as work.

    Args:
      config: The model.
      shape: The batch.
      params: The model's parameters, those of adapters among them; leaves need only
        a `shape`. A matrix takes part in one product per token of its stack.

    >>> config = config_lib.T5Config(vocab_size=8, emb_dim=4, num_heads=1, head_dim=4,
    ...     mlp_dim=4, num_encoder_layers=1, num_decoder_layers=1)
    >>> from elm_jax.model import t5
    >>> shape = BatchShape(batch_size=1, inputs_length=1, targets_length=1)
    >>> forward_flops(config, shape, t5.param_shapes(t5.T5(config)))
    688
    """
    return sum(product.flops for product in _products(config, shape, params, {}))


def train_flops(
    config: config_lib.T5Config, shape: BatchShape, *, trainable: Params, frozen: Params
) -> int:
    """Returns the operations of one training step, counted as in `forward_flops`.

    The backward pass has a product for the gradient of each factor of a product, but
    none for weights that do not train: a step with a frozen base costs about two
    thirds of one that trains it. Products that `config.remat` computes again are
    counted again. The optimiser is left out.

    Args:
      config: The model.
      shape: The batch.
      trainable: Parameters that train; leaves need only a `shape`.
      frozen: All others.
    """
    params = trees.join(trainable, frozen)
    total = 0
    for product in _products(config, shape, params, trees.flatten(trainable)):
        has_two = product.is_trained or not product.has_weight
        total += product.flops * (3 if has_two else 2)
        total += product.flops * _is_again(config, product, params, trainable)
    return total


def _is_again(
    config: config_lib.T5Config, product: _Product, params: Params, trainable: Params
) -> bool:
    """Returns whether the backward pass computes a product a second time."""
    if config.remat == "none" or not product.is_in_layer:
        return False
    if config.remat == "layer":
        # What comes out of a layer's last product is needed by no gradient.
        return product.name not in _last_products(config, params)
    # Products with weights are kept. Mixed values are needed for the gradient of the
    # output projection alone, weights of attention always.
    if product.name.endswith("values"):
        return _reads_mixed(config, trainable)
    return not product.has_weight


def _last_products(config: config_lib.T5Config, params: Params) -> set[str]:
    """Returns the last matrix of each stack's layers, an adapter's if there is one."""
    found = set()
    leaves = trees.flatten(params)
    for stack in ("encoder/", "decoder/"):
        for place in _LAST:
            ends = [
                name
                for name, leaf in leaves.items()
                if name.startswith(stack)
                and place in name
                and len(leaf.shape) - (f"/{LAYERS}/" in name) == 2
                and leaf.shape[-1] == config.emb_dim
            ]
            if ends:
                found.add(max(ends))
                break
    return found


def _reads_mixed(config: config_lib.T5Config, trainable: Params) -> bool:
    """Returns whether a gradient needs what attention mixed.

    Those of the output projection do, and of a matrix that an adapter puts beside it.
    """
    joined = config.num_heads * config.head_dim
    return any(
        "attention/out/" in name
        or ("/out_adapter/" in name and leaf.shape[-2:-1] == (joined,))
        for name, leaf in trees.flatten(trainable).items()
    )


def _products(
    config: config_lib.T5Config,
    shape: BatchShape,
    params: Params,
    trained: Mapping[str, Any],
) -> Iterator[_Product]:
    """Yields the products of a forward pass."""
    inputs = shape.batch_size * shape.inputs_length
    targets = shape.batch_size * shape.targets_length
    leaves = trees.flatten(params)
    for name, leaf in leaves.items():
        is_in_layer = f"/{LAYERS}/" in name
        if len(leaf.shape) - is_in_layer < 2 or name.endswith("embedding"):
            continue
        sees_inputs = name.startswith("encoder") or re.search(_FROM_INPUTS, name)
        flops = 2 * (inputs if sees_inputs else targets) * math.prod(leaf.shape)
        yield _Product(flops, is_in_layer, True, name in trained, name)
    if config.logits_via_embedding:
        flops = 2 * targets * config.emb_dim * config.vocab_size
        yield _Product(flops, False, True, _EMBEDDING in trained, _EMBEDDING)
    joined = config.num_heads * config.head_dim
    both = shape.inputs_length + shape.targets_length
    pairs = config.num_encoder_layers * inputs * shape.inputs_length
    pairs += config.num_decoder_layers * targets * both
    for name in ("logits", "values"):
        yield _Product(2 * pairs * joined, True, False, False, name)


def activation_bytes(
    config: config_lib.T5Config, shape: BatchShape, *, num_model: int = 1
) -> int:
    """Returns an estimate of the bytes kept from the forward to the backward pass.

    Args:
      config: The model.
      shape: The batch, or the share of it that one device has.
      num_model: Devices that share heads, feed-forward and vocabulary.
    """
    size = 2 if config.dtype == "bfloat16" else 4
    num_layers = (config.num_encoder_layers, config.num_decoder_layers)

    def kept_by(remat: str, *num_layers: int) -> int:
        whole, shared = _kept_values(config, shape, remat, *num_layers)
        return whole + math.ceil(shared / num_model)

    kept = kept_by(config.remat, *num_layers)
    if config.remat != "none":  # what the layer at work has computed again
        kept += max(kept_by("none", *layer) for layer in ((1, 0), (0, 1)))
    logits = 2 * 4 * shape.targets_length * math.ceil(config.vocab_size / num_model)
    return shape.batch_size * (size * kept + logits)


def _kept_values(
    config: config_lib.T5Config,
    shape: BatchShape,
    remat: str,
    num_encoder_layers: int,
    num_decoder_layers: int,
) -> tuple[int, int]:
    """Returns how many activations of one example some layers keep.

    The first number is of those as wide as the model, the second of those over heads
    or the feed-forward width.
    """
    inputs = num_encoder_layers * shape.inputs_length
    targets = num_decoder_layers * shape.targets_length
    cross = num_decoder_layers * shape.inputs_length
    width, joined = config.emb_dim, config.num_heads * config.head_dim
    hidden = len(config.mlp_activations) * config.mlp_dim
    whole, shared = (inputs + targets) * width, 0  # what goes into each layer
    if remat != "layer":  # the products with parameters
        whole += (2 * inputs + 3 * targets) * width
        shared += inputs * (3 * joined + hidden)
        shared += targets * (4 * joined + hidden) + cross * 2 * joined
    if remat == "none":  # norms and residuals, activations, logits and softmax
        whole += (4 * inputs + 6 * targets) * width
        shared += (inputs + targets) * 2 * hidden
        if config.attention != "cudnn":  # which never holds them
            pairs = inputs * shape.inputs_length
            pairs += targets * (shape.targets_length + shape.inputs_length)
            shared += 2 * config.num_heads * pairs
    return whole, shared
