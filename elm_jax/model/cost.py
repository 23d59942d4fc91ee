"""Operations and bytes of a model, estimated from its shape alone."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from elm_jax import trees
from elm_jax.model import config as config_lib
from elm_jax.model import kept, t5
from elm_jax.types import LAYERS, Params

_EMBEDDING = "token_embedder/embedding"
# What the stacked activations of all layers take of a device, in bytes of theirs: the
# TPU's compiler leaves gaps between them; from tests/benchmarks/planner_table.jsonl.
_STACKS_TAKE = {"tpu": 1.34}
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
    products = set()
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
                products.add(max(ends))
                break
    return products


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
    total_length = shape.inputs_length + shape.targets_length
    pairs = config.num_encoder_layers * inputs * shape.inputs_length
    pairs += config.num_decoder_layers * targets * total_length
    for name in ("logits", "values"):
        yield _Product(2 * pairs * joined, True, False, False, name)


def activation_bytes(
    model: t5.T5,
    shape: BatchShape,
    *,
    trained: Iterable[str],
    num_fsdp: int = 1,
    num_model: int = 1,
    platform: str = "",
) -> int:
    """Returns about how many bytes of a device a step takes for what it computes.

    That is what is kept from the forward to the backward pass, with copies of trained
    parameters in the compute dtype, what the layer at work has computed again, and of
    parameters that are split its own, whole. Gradients are not counted but for these.

    Args:
      model: The network.
      shape: The batch, or the share of it that one device has.
      trained: Names of the parameters that train.
      num_fsdp: Devices that split parameters and batch.
      num_model: Devices that share heads, feed-forward and vocabulary.
      platform: Of the device, as JAX calls it; "" for any but a TPU.
    """
    config, batch = model.config, batch_arrays(shape)
    names = frozenset(trained)
    local = model.clone(config=_share(config, num_model))
    depth = (config.num_encoder_layers, config.num_decoder_layers)
    activations, copies = kept.trace(local, batch, trained=names)
    stacks = activations.total(*depth) - activations.outside
    stacks = int(_STACKS_TAKE.get(platform, 1.0) * stacks)
    weights = -(-copies.total(*depth) // num_fsdp)
    if num_fsdp > 1:
        weights += gathered_bytes(model, trained=names, num_model=num_model)
    # The layer at work and the loss are not at work at one time.
    return stacks + weights + max(activations.outside, _at_work(local, batch, names))


def gathered_bytes(
    model: t5.T5, *, trained: Iterable[str] = (), num_model: int = 1
) -> int:
    """Returns the bytes of one layer, whole, where devices split parameters.

    Parameters are in the compute dtype. Gradients of those that train count, too: they
    are float32 and whole until devices sum them.

    Args:
      model: The network.
      trained: Names of the parameters that train.
      num_model: Devices that share heads, feed-forward and vocabulary.
    """
    local, names = model.clone(config=_share(model.config, num_model)), {*trained}
    sizes = {"encoder": 0, "decoder": 0}
    for name, leaf in trees.flatten(t5.param_shapes(local)).items():
        if f"/{LAYERS}/" in name:
            value_bytes = _itemsize(model.config) + 4 * (name in names)
            sizes[name.split("/")[0]] += value_bytes * math.prod(leaf.shape[1:])
    return max(sizes.values())


def _at_work(model: t5.T5, batch: Mapping[str, Any], names: frozenset[str]) -> int:
    """Returns the bytes of what a layer computes again, beside what is kept."""
    if model.config.remat == "none":
        return 0
    plain = model.clone(config=dataclasses.replace(model.config, remat="none"))
    every = kept.trace(plain, batch, trained=names)
    kept_parts = kept.trace(model, batch, trained=names)
    encoder, decoder = (
        sum(part[side] for part in every) - sum(part[side] for part in kept_parts)
        for side in (0, 1)
    )
    return max(encoder, decoder)


def ranking_bytes(
    config: config_lib.T5Config,
    shape: BatchShape,
    num_choices: int,
    *,
    num_model: int = 1,
    platform: str = "",
) -> int:
    """Returns about how many bytes of a device ranking takes for what it computes.

    Args:
      config: The model.
      shape: The batch, or the share of it that one device has; the targets are the
        choices of an input.
      num_choices: Of each input.
      num_model: Devices that share heads, feed-forward and vocabulary.
      platform: Of the device, as JAX calls it; "" for any but a TPU.
    """
    rows = shape.batch_size * num_choices
    logits = 4 * rows * shape.targets_length * -(-config.vocab_size // num_model)
    layer = functools.partial(_layer_bytes, config, num_model, platform)
    encoded = layer(shape.batch_size, shape.inputs_length)
    decoded = layer(rows, shape.targets_length)
    return max(encoded, decoded, logits)


def decoding_bytes(
    config: config_lib.T5Config,
    shape: BatchShape,
    num_beams: int = 1,
    *,
    num_model: int = 1,
    platform: str = "",
) -> int:
    """Returns about how many bytes of a device decoding takes for what it computes.

    That is keys and values of all layers: those of the inputs once, those of what is
    written twice, for a step reads the last step's while it makes its own. Beams that
    change places are copied from one array to another, keys after values.

    Args:
      config: The model.
      shape: The batch, or the share of it that one device has; of the targets the
        greatest length.
      num_beams: Hypotheses of each input.
      num_model: Devices that share heads, feed-forward and vocabulary.
      platform: Of the device, as JAX calls it; "" for any but a TPU.
    """
    width = config.num_heads * config.head_dim // num_model
    position = 2 * config.num_decoder_layers * width * _itemsize(config)
    of_inputs = shape.batch_size * shape.inputs_length * position
    written = shape.batch_size * num_beams * shape.targets_length * position
    copied_bytes = written // 2 if num_beams > 1 else 0
    size = shape.batch_size, shape.inputs_length
    encoded = _layer_bytes(config, num_model, platform, *size)
    return max(of_inputs + 2 * written + copied_bytes, encoded)


def _layer_bytes(
    config: config_lib.T5Config, num_model: int, platform: str, rows: int, length: int
) -> int:
    """Returns the bytes of what one layer computes without a backward pass.

    Attention has the float32 logits of all pairs of positions, and beside them queries,
    keys, values and what they are made of. It also has for each row the pairs' float32
    bias and a byte that masks them, except on a TPU, whose compiler makes these where
    they are added. The feed-forward block comes after it, and has its two inner values.
    """
    pairs = config.num_heads // num_model * length * length
    width = length * config.num_heads * config.head_dim // num_model
    of_pair = 4 if platform == "tpu" else 4 + 4 + 1
    attention = of_pair * pairs + 4 * _itemsize(config) * width
    hidden = length * config.mlp_dim // num_model
    return rows * max(attention, 2 * _itemsize(config) * hidden)


def _itemsize(config: config_lib.T5Config) -> int:
    return 2 if config.dtype == "bfloat16" else 4


def batch_arrays(shape: BatchShape, *, is_packed: bool = False) -> dict[str, Any]:
    """Returns the shapes of the arrays of a training batch, by T5X's names."""
    lengths = {"encoder": shape.inputs_length, "decoder": shape.targets_length}
    sides = {
        "encoder_input_tokens": "encoder",
        "decoder_input_tokens": "decoder",
        "decoder_target_tokens": "decoder",
        "decoder_loss_weights": "decoder",
    }
    if is_packed:
        for side in lengths:
            sides |= {f"{side}_segment_ids": side, f"{side}_positions": side}
    return {
        name: jax.ShapeDtypeStruct(
            (shape.batch_size, lengths[side]),
            np.float32 if name == "decoder_loss_weights" else np.int32,
        )
        for name, side in sides.items()
    }


def _share(config: config_lib.T5Config, num_model: int) -> config_lib.T5Config:
    """Returns the part of a model that each of some devices computes."""
    return dataclasses.replace(
        config,
        num_heads=-(-config.num_heads // num_model),
        mlp_dim=-(-config.mlp_dim // num_model),
        vocab_size=-(-config.vocab_size // num_model),
    )
