"""Between layers as separate subtrees, as most peers store them, and as stacks."""

import itertools
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from elm_jax import errors, trees
from elm_jax.types import LAYERS, Params

_Leaf = TypeVar("_Leaf")
_ONE_LAYER = re.compile(
    rf"(?P<stack>.+)/{LAYERS}_(?P<number>0|[1-9]\d{{0,8}})/(?P<rest>.+)"
)


def stack_layers(params: Params) -> dict[str, Any]:
    """Returns `params` with `<stack>/layers_<n>/...` joined on a new axis 0.

    >>> tree = {"encoder": {"layers_0": {"scale": [1]}, "layers_1": {"scale": [2]}}}
    >>> stack_layers(tree)["encoder"]["layers"]["scale"].tolist()
    [[1], [2]]

    Raises:
      CheckpointError: Layers of a stack do not hold the same tensors, or some
        number between 0 and the last is missing.
    """
    single, stacks = group_layers(
        {name: np.asarray(leaf) for name, leaf in trees.flatten(params).items()}
    )
    leaves: dict[str, Any] = dict(single)
    for name, layers in stacks.items():
        leaves[name] = np.stack([layers[n] for n in sorted(layers)])
    return trees.unflatten(dict(sorted(leaves.items())))


def group_layers(
    leaves: Mapping[str, _Leaf],
) -> tuple[dict[str, _Leaf], dict[str, dict[int, _Leaf]]]:
    """Returns leaves outside of layers, and those inside by stacked name and layer.

    Args:
      leaves: Arrays or what else has a `shape`, by `/`-joined name.

    Raises:
      CheckpointError: Layers of a stack do not hold the same tensors, or one is
        missing.
    """
    single: dict[str, _Leaf] = {}
    stacks: dict[str, dict[int, _Leaf]] = {}
    for name, leaf in leaves.items():
        match = _ONE_LAYER.fullmatch(name)
        if match is None:
            single[name] = leaf
        else:
            stacked = f"{match['stack']}/{LAYERS}/{match['rest']}"
            stacks.setdefault(stacked, {})[int(match["number"])] = leaf
    _check_stacks(stacks)
    return single, stacks


def unstack_layers(params: Params) -> dict[str, Any]:
    """Returns `params` with each stack as `layers_<n>`; inverse of `stack_layers`.

    >>> sorted(unstack_layers({"encoder": {"layers": {"scale": [1, 2]}}})["encoder"])
    ['layers_0', 'layers_1']
    """
    leaves: dict[str, Any] = {}
    for name, leaf in trees.flatten(params).items():
        stack, separator, rest = name.partition(f"/{LAYERS}/")
        if separator:
            layers = enumerate(leaf)
            leaves |= {f"{stack}/{LAYERS}_{n}/{rest}": layer for n, layer in layers}
        else:
            leaves[name] = leaf
    return trees.unflatten(leaves)


def _check_stacks(stacks: Mapping[str, Mapping[int, Any]]) -> None:
    depths: dict[str, int] = {}
    for name, layers in stacks.items():
        stack = name.partition(f"/{LAYERS}/")[0]
        depths[stack] = max(depths.get(stack, 0), max(layers) + 1)
    wrong = []
    for name, layers in stacks.items():
        depth = depths[name.partition(f"/{LAYERS}/")[0]]
        # A name may claim a layer far up: what is looked at grows with what is there.
        near = (n for n in range(depth) if n not in layers)
        absent = [*itertools.islice(near, 5)] if len(layers) < depth else []
        shapes = sorted({layer.shape for layer in layers.values()})
        if absent:
            wrong.append(f"{name} is not in layers {absent}")
        elif len(shapes) > 1:
            wrong.append(f"{name} has shapes {shapes}")
    if wrong:
        raise errors.CheckpointError(
            found="; ".join(wrong),
            expected="the same tensors in all layers of a stack, from 0 on",
            do="Check that the checkpoint is complete and of a T5 model",
        )
