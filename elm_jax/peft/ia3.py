"""(IA)3: learnt factors on keys, values and the middle of feed-forward blocks.

Reference:
  Liu et al., https://arxiv.org/abs/2205.05638. The default places are PEFT's for T5.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn

from elm_jax import fields, float32_sums, parameters
from elm_jax.limits import patterns
from elm_jax.peft import kind as kinds
from elm_jax.peft import points


class Ia3Adapter(nn.Module):
    """Multiplies a projection's outputs by `ia3_scale` [outputs], float32."""

    @nn.compact
    def __call__(
        self, inputs: jax.Array, outputs: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Maps outputs [..., outputs] to the same shape and dtype."""
        del inputs, deterministic
        width = outputs.shape[-1]
        scale = parameters.declare(self, "ia3_scale", nn.initializers.ones, (width,))
        return float32_sums.scaled(outputs, scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ia3(kinds.AdapterKind):
    """Which projections get factors; a types.AdapterFn.

    At the start all factors are one, so that the model starts exactly as the base.

    Attributes:
      kind: "ia3".
      targets: Regular expression, searched in the names of insertion points such as
        `encoder/mlp/hidden`; see `points.PROJECTIONS`.
    """

    kind: str = "ia3"
    targets: str = "/(key|value|hidden)$"

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"ia3_scale": ("outputs",)}
    neutral: ClassVar[Mapping[str, float]] = {"ia3_scale": 1.0}

    def __post_init__(self) -> None:
        """Raises ConfigError for a spec that no model can have."""
        fields.check(self)
        wrong = {} if self.kind == "ia3" else {"kind": "ia3"}
        wrong |= points.wrong_targets(self.targets, points.PROJECTIONS)
        fields.refuse(self, wrong)

    def adapter_fn(self, emb_dim: int) -> "Ia3":
        """Returns itself: the shapes of the projections say the rest."""
        del emb_dim
        return self

    def __call__(self, point: str, *, name: str) -> Ia3Adapter | None:
        """Returns a new adapter module for `point`, or None where none belongs."""
        if point in patterns.found_in(self.targets, points.PROJECTIONS):
            return Ia3Adapter(name=name)
        return None

    def fold(
        self, path: str, parts: Mapping[str, np.ndarray], kernels: dict[str, Any]
    ) -> None:
        """Multiplies the matrix that makes the scaled values, or that reads them."""
        scale = parts["ia3_scale"]
        if path.endswith("/hidden"):
            name, scale = f"{path.removesuffix('hidden')}wo/kernel", scale[..., :, None]
        else:
            name, scale = f"{path}/kernel", scale[..., None, :]
        kernels[name] = np.asarray(kernels[name]) * scale
