"""Operations and bytes of a model, estimated from its shape alone."""

import dataclasses

from elm_jax import trees
from elm_jax.model import config as config_lib
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A batch: inputs [batch_size, inputs_length] and targets likewise."""

    batch_size: int
    inputs_length: int
    targets_length: int


def forward_flops(config: config_lib.T5Config, shape: Shape) -> int:
    """Returns the operations of one forward pass, a multiply-add counting as two.

    Matrix products only, which is nearly all; padding counts as work.

    >>> config = config_lib.T5Config(vocab_size=8, emb_dim=4, num_heads=1, head_dim=4,
    ...     mlp_dim=4, num_encoder_layers=1, num_decoder_layers=1)
    >>> forward_flops(config, Shape(batch_size=1, inputs_length=1, targets_length=1))
    688
    """
    width, joined = config.emb_dim, config.num_heads * config.head_dim
    inputs, targets = shape.inputs_length, shape.targets_length
    projection = width * joined
    mlp = (len(config.mlp_activations) + 1) * width * config.mlp_dim
    encoder_layer = inputs * (4 * projection + mlp) + 2 * inputs**2 * joined
    decoder_layer = (
        targets * (6 * projection + mlp)
        + 2 * inputs * projection
        + 2 * targets * (targets + inputs) * joined
    )
    products = (
        config.num_encoder_layers * encoder_layer
        + config.num_decoder_layers * decoder_layer
        + targets * width * config.vocab_size
    )
    return 2 * shape.batch_size * products


def train_flops(config: config_lib.T5Config, shape: Shape) -> int:
    """Returns the operations of one step that trains all parameters.

    The backward pass costs twice the forward pass; recomputation adds another one.
    A prompt expert, whose base needs no gradient, costs about two thirds of it.
    """
    passes = 4 if config.remat == "layer" else 3
    return passes * forward_flops(config, shape)


def train_bytes(
    config: config_lib.T5Config,
    shape: Shape,
    *,
    trainable: Params,
    frozen: Params,
    moments: int = 2,
) -> int:
    """Returns an estimate of the memory of one training step, on one device.

    Parameters once, gradients and `moments` arrays of the optimiser for those that
    train, and the activations that the backward pass needs.

    Args:
      config: The model.
      shape: The batch.
      trainable: Leaves with `shape` and `dtype`.
      frozen: Likewise.
      moments: Arrays per trainable parameter: 2 for Adam, about 0 for Adafactor.
    """
    weights = trees.count_bytes(trainable) * (2 + moments) + trees.count_bytes(frozen)
    return weights + activation_bytes(config, shape)


def activation_bytes(config: config_lib.T5Config, shape: Shape) -> int:
    """Returns an estimate of the bytes kept from the forward to the backward pass."""
    size = 2 if config.dtype == "bfloat16" else 4
    num_layers = (config.num_encoder_layers, config.num_decoder_layers)
    kept = _kept_values(config, shape, config.remat, *num_layers)
    if config.remat != "none":  # what the layer at work has computed again
        one_layer = (_kept_values(config, shape, "none", *n) for n in ((1, 0), (0, 1)))
        kept += max(one_layer)
    logits = 2 * 4 * shape.targets_length * config.vocab_size
    return shape.batch_size * (size * kept + logits)


def _kept_values(
    config: config_lib.T5Config,
    shape: Shape,
    remat: str,
    num_encoder_layers: int,
    num_decoder_layers: int,
) -> int:
    """Returns how many activations of one example some layers keep."""
    inputs = num_encoder_layers * shape.inputs_length
    targets = num_decoder_layers * shape.targets_length
    cross = num_decoder_layers * shape.inputs_length
    width, joined = config.emb_dim, config.num_heads * config.head_dim
    hidden = len(config.mlp_activations) * config.mlp_dim
    kept = (inputs + targets) * width  # what goes into each layer
    if remat != "layer":  # the products with parameters
        kept += inputs * (3 * joined + 2 * width + hidden)
        kept += targets * (4 * joined + 3 * width + hidden) + cross * 2 * joined
    if remat == "none":  # norms and residuals, activations, logits and softmax
        kept += inputs * (4 * width + 2 * hidden) + targets * (6 * width + 2 * hidden)
        pairs = inputs * shape.inputs_length
        pairs += targets * (shape.targets_length + shape.inputs_length)
        kept += 2 * config.num_heads * pairs
    return kept
