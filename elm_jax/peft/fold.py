"""Folds adapters into the base's matrices, so that a plain model does the same.

There is no way back: the base and the expert are not to be had from the result.
"""

from typing import Any

import numpy as np

from elm_jax import errors, trees
from elm_jax.peft import adapters, experts, ia3, lora
from elm_jax.types import Params


def fold(params: Params, spec: adapters.AdapterSpec) -> Params:
    """Returns the parameters of a model without adapters that computes the same.

    Args:
      params: The whole model's, layers stacked.
      spec: Of its adapters: LoRA or (IA)3.

    Raises:
      ConfigError: The adapters are no linear functions of what they adapt.
    """
    if not isinstance(spec, lora.Lora | ia3.Ia3):
        raise errors.ConfigError(
            found=f"adapters of kind {spec.kind!r}",
            expected="lora or ia3: others are not part of a matrix",
            do="Use the expert as it is, with its base",
        )
    with np.errstate(over="ignore", invalid="ignore"):  # looked at when it is saved
        return _fold(params, spec)


def _fold(params: Params, spec: adapters.AdapterSpec) -> Params:
    added, base = (trees.flatten(t) for t in trees.split(params, experts.ADAPTERS))
    for name, leaf in added.items():
        path, _, part = name.partition("_adapter/")
        array = np.asarray(leaf)
        if part == "lora_a":
            product = array @ np.asarray(added[f"{path}_adapter/lora_b"])
            _change(base, path, np.add, np.float32(_scale(spec)) * product)
        elif part == "ia3_scale" and path.endswith("/hidden"):
            inputs = path.removesuffix("hidden") + "wo"
            _change(base, inputs, np.multiply, array[..., :, None])
        elif part == "ia3_scale":
            _change(base, path, np.multiply, array[..., None, :])
    return trees.unflatten(base)


def _scale(spec: adapters.AdapterSpec) -> float:
    return spec.scale if isinstance(spec, lora.Lora) else 1.0


def _change(base: dict[str, Any], path: str, fn: Any, by: np.ndarray) -> None:
    kernel = f"{path}/kernel"
    base[kernel] = fn(np.asarray(base[kernel]), by)
