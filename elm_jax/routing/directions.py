"""The directions of inputs along which an expert's adapters change most, for Arrow."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from elm_jax import errors, trees
from elm_jax.types import Params

_ADAPTER = "_adapter/"


def arrow_directions(params: Params) -> dict[str, np.ndarray]:
    """Returns the direction of each adapter of an expert, by its place.

    Of a LoRA `x A B` it is the first singular vector of `A B` on the side of `x`, of a
    bottleneck `g(x D) U` that of `D` with each column times the norm of its row of
    `U`. Its sign means nothing: Arrow takes sizes.

    Args:
      params: The expert's; stacked layers keep their axis in front.

    Returns:
      Float32 unit vectors [inputs] or [layers, inputs], by names such as
      `encoder/layers/mlp_adapter`.

    Raises:
      ConfigError: An adapter is neither LoRA nor a bottleneck.
    """
    return {
        place: _direction(place, parts) for place, parts in adapters_of(params).items()
    }


def adapters_of(params: Params) -> dict[str, dict[str, Any]]:
    """Returns the parameters of each adapter by its place, such as `.../mlp_adapter`.

    Args:
      params: An expert's.
    """
    places: dict[str, dict[str, Any]] = {}
    for name, leaf in trees.flatten(params).items():
        place, is_adapter, rest = name.partition(_ADAPTER)
        if is_adapter:
            places.setdefault(f"{place}_adapter", {})[rest] = leaf
    return places


def _direction(place: str, parts: Mapping[str, Any]) -> np.ndarray:
    if "lora_a" in parts:
        down, up = parts["lora_a"], parts["lora_b"]
        factor = _first_left(*_core(np.asarray(down), np.asarray(up)))
    elif "down/kernel" in parts:
        up = np.asarray(parts["up/kernel"], np.float64)
        norms = np.linalg.norm(up, axis=-1)
        down = np.asarray(parts["down/kernel"], np.float64) * norms[..., None, :]
        basis, core = np.linalg.qr(down)
        factor = _first_left(basis, core)
    else:
        raise errors.ConfigError(
            found=f"the adapter {place} with {', '.join(parts)}",
            expected="LoRA or a bottleneck, which have a direction of their own",
            do="Route these experts by the norms of their effects (EffectNorm)",
        )
    return factor.astype(np.float32)


def _core(down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns an orthonormal basis [inputs, rank] and the rest [rank, outputs]."""
    basis, core = np.linalg.qr(down.astype(np.float64))
    return basis, core @ up.astype(np.float64)


def _first_left(basis: np.ndarray, core: np.ndarray) -> np.ndarray:
    """Returns the first left singular vector of `basis @ core`, [..., inputs]."""
    left_vectors = np.linalg.svd(core, full_matrices=False)[0][..., :, :1]
    return (basis @ left_vectors)[..., 0]
