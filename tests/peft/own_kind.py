"""A kind of adapters from outside of the package: a factor on a sub-layer's output."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from elm_jax.peft import adapters, kind, points


class GainAdapter(nn.Module):
    """Multiplies what a projection gives by `gain` [outputs]."""

    @nn.compact
    def __call__(self, inputs, outputs, *, deterministic=True):
        del inputs, deterministic
        gain = self.param("gain", nn.initializers.ones, outputs.shape[-1:], jnp.float32)
        gain = gain.reshape((1,) * (outputs.ndim - 1) + (-1,))
        return outputs * gain.astype(outputs.dtype)


@adapters.register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gain(kind.AdapterKind):
    """Factors on the outputs of one kind of projections.

    Attributes:
      kind: "gain".
      part: The projections' name, such as `wo`.
    """

    kind: str = "gain"
    part: str = "wo"

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"gain": ("outputs",)}
    neutral: ClassVar[Mapping[str, float]] = {"gain": 1.0}

    def adapter_fn(self, emb_dim):
        del emb_dim
        return self

    def __call__(self, point, *, name):
        is_there = point in points.PROJECTIONS and point.endswith(f"/{self.part}")
        return GainAdapter(name=name) if is_there else None

    def fold(self, path, parts, kernels):
        kernel = np.asarray(kernels[f"{path}/kernel"])
        kernels[f"{path}/kernel"] = kernel * parts["gain"][..., None, :]
