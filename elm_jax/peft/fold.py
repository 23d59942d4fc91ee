"""Folds adapters into the base's matrices, so that a plain model does the same.

There is no way back: the base and the expert are not to be had from the result.
"""

from typing import Any

import numpy as np

from elm_jax import trees
from elm_jax.peft import expert_parts, kind
from elm_jax.types import Params

_ADAPTER = "_adapter/"


def fold(params: Params, spec: kind.AdapterKind) -> Params:
    """Returns the parameters of a model without adapters that computes the same.

    Args:
      params: The whole model's, layers stacked.
      spec: Of its adapters, such as LoRA or (IA)3.

    Raises:
      ConfigError: The adapters are no linear functions of what they adapt.
    """
    spec.check_can_fold()
    added, base = (trees.flatten(t) for t in trees.split(params, expert_parts.ADAPTERS))
    by_path: dict[str, dict[str, Any]] = {}
    for name, leaf in added.items():
        path, _, part = name.partition(_ADAPTER)
        by_path.setdefault(path, {})[part] = np.asarray(leaf)
    with np.errstate(over="ignore", invalid="ignore"):  # looked at when it is saved
        for path, parts in by_path.items():
            spec.fold(path, parts, base)
    return trees.unflatten(base)
