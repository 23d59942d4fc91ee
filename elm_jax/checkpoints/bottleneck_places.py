"""Where the bottleneck adapters of our T5 are in that of Hugging Face transformers."""

import re
from collections.abc import Collection
from typing import NamedTuple

from elm_jax import errors, trees
from elm_jax.checkpoints import tensors
from elm_jax.types import LAYERS, Params

# The insertion point, the number of the sub-layer in its block, and what is adapted.
_SUB_LAYERS = {
    "encoder/attention": ("encoder/self_attention", 0, "SelfAttention"),
    "encoder/mlp": ("encoder/mlp", 1, "DenseReluDense"),
    "decoder/self_attention": ("decoder/self_attention", 0, "SelfAttention"),
    "decoder/cross_attention": ("decoder/cross_attention", 1, "EncDecAttention"),
    "decoder/mlp": ("decoder/mlp", 2, "DenseReluDense"),
}
_NAME = re.compile(
    rf"(encoder|decoder)/{LAYERS}_(\d+)/(\w+)_adapter/(down|up)/(kernel|bias)"
)


class Place(NamedTuple):
    """One tensor of an adapter.

    Attributes:
      point: The insertion point, such as `encoder/mlp`.
      layer: Name of the sub-layer there, such as `encoder.block.3.layer.1`.
      module: Name of the adapted module, such as
        `encoder.block.3.layer.1.DenseReluDense`.
      side: `down` or `up`.
      part: `kernel`, which lies the other way round there, or `bias`.
    """

    point: str
    layer: str
    module: str
    side: str
    part: str


def find(name: str) -> Place | None:
    """Returns the place of a tensor by our plain name; None if it is no adapter's.

    >>> find("decoder/layers_3/mlp_adapter/up/bias").module
    'decoder.block.3.layer.2.DenseReluDense'
    """
    match = _NAME.fullmatch(name)
    if match is None or f"{match[1]}/{match[3]}" not in _SUB_LAYERS:
        return None
    stack, number, sub_layer, side, part = match.groups()
    point, position, module = _SUB_LAYERS[f"{stack}/{sub_layer}"]
    layer = f"{stack}.block.{number}.layer.{position}"
    return Place(point, layer, f"{layer}.{module}", side, part)


def plain_name(point: str, index: int, side: str, part: str) -> str:
    """Returns our plain name of a tensor; inverse of `find`.

    >>> plain_name("decoder/mlp", 3, "up", "bias")
    'decoder/layers_3/mlp_adapter/up/bias'

    Args:
      point: The insertion point.
      index: Of the layer in its stack, from 0.
      side: `down` or `up`.
      part: `kernel` or `bias`.
    """
    sub_layer_name = next(
        name for name, place in _SUB_LAYERS.items() if place[0] == point
    )
    stack, _, sub_layer = sub_layer_name.partition("/")
    return f"{stack}/{LAYERS}_{index}/{sub_layer}_adapter/{side}/{part}"


def width(params: Params, points: Collection[str], *, of: str) -> int:
    """Returns the width of the middle of an expert's adapters.

    Args:
      params: The expert's tensors, layers stacked.
      points: Where its adapters are.
      of: Whose they are, for the message.

    Raises:
      CheckpointError: Its adapters are elsewhere, or it has none.
    """
    leaves = tensors.plain_shapes(trees.flatten(params))
    shapes = {place.point: leaves[n].shape for n in leaves if (place := _bias(n))}
    if not shapes or {*shapes} != {*points}:
        raise errors.CheckpointError(
            found=f"{of} with adapters at {', '.join(sorted(shapes)) or 'no point'}",
            expected=f"all that its manifest tells: {', '.join(sorted(points))}",
            do="Train the adapters of all points (expert_parts)",
        )
    return next(iter(shapes.values()))[0]


def _bias(name: str) -> Place | None:
    place = find(name)
    is_width = place is not None and (place.side, place.part) == ("down", "bias")
    return place if is_width else None
