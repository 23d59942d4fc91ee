"""LoRA: a product of two narrow matrices added to a projection.

Averaging experts averages the two matrices, not their products.

Reference:
  Hu et al., https://arxiv.org/abs/2106.09685; the rank-stabilised scale:
  Kalajdzievski, https://arxiv.org/abs/2312.03732. Initialised as PEFT does it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from elm_jax import fields, float32_sums, parameters, types
from elm_jax.limits import patterns
from elm_jax.peft import kind as kinds
from elm_jax.peft import points

_POINTS = tuple(p for p in points.PROJECTIONS if not p.endswith("/hidden"))
# Uniform within 1 / sqrt(inputs), as torch's kaiming_uniform_(a=sqrt(5)) is.
_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class LoraAdapter(nn.Module):
    """Adds `scale * inputs @ lora_a @ lora_b` to a projection's outputs.

    Parameters: `lora_a` [inputs, rank] and `lora_b` [rank, outputs], float32.
    """

    spec: "Lora"

    @nn.compact
    def __call__(
        self, inputs: jax.Array, outputs: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Maps [..., inputs] and [..., outputs] to new outputs of the same dtype."""
        spec, dtype = self.spec, outputs.dtype
        shape_a = (inputs.shape[-1], spec.rank)
        shape_b = (spec.rank, outputs.shape[-1])
        lora_a = parameters.declare(self, "lora_a", _init, shape_a)
        lora_b = parameters.declare(self, "lora_b", nn.initializers.zeros, shape_b)
        x = nn.Dropout(spec.dropout)(inputs, deterministic=deterministic)
        # Two matrices, for the reason that model/layers.py gives.
        rows = x.astype(dtype).reshape(-1, x.shape[-1])
        middle = float32_sums.product(rows, lora_a)
        added = float32_sums.product(middle, lora_b)
        return outputs + jnp.asarray(spec.scale, dtype) * added.reshape(outputs.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora(kinds.AdapterKind):
    """Which projections get LoRA; a types.AdapterFn.

    At the start `lora_b` is zero, so that the model starts exactly as the base.

    Attributes:
      kind: "lora".
      rank: Width between the two matrices.
      alpha: The product is scaled by `alpha / rank`.
      rank_stabilized: Whether it is scaled by `alpha / sqrt(rank)` instead.
      dropout: Share of the projection's inputs dropped on this path in training,
        in [0, 1).
      targets: Regular expression, searched in the names of insertion points such as
        `decoder/cross_attention/query`; see `points.PROJECTIONS`.
    """

    kind: str = "lora"
    rank: fields.Count = 8
    alpha: fields.Scale = 16.0
    rank_stabilized: bool = False
    dropout: fields.ShareBelowOne = 0.0
    targets: str = "/(query|value)$"

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "lora_a": ("inputs", "adapter"),
        "lora_b": ("adapter", "outputs"),
    }
    beside: ClassVar[Mapping[str, tuple[int, bool]]] = {
        "lora_a": (-1, False),
        "lora_b": (-2, True),
    }
    is_linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises ConfigError for a spec that no model can have."""
        fields.check(self)
        wrong = {} if self.kind == "lora" else {"kind": "lora"}
        wrong |= points.wrong_targets(self.targets, _POINTS)
        fields.refuse(self, wrong)

    @property
    def scale(self) -> float:
        """The factor on the product of the two matrices."""
        root = math.sqrt(self.rank) if self.rank_stabilized else self.rank
        return self.alpha / root

    def adapter_fn(self, emb_dim: int) -> "Lora":
        """Returns itself: the shapes of the projections say the rest."""
        del emb_dim
        return self

    def __call__(self, point: str, *, name: str) -> LoraAdapter | None:
        """Returns a new adapter module for `point`, or None where none belongs."""
        if point in patterns.found_in(self.targets, _POINTS):
            return LoraAdapter(self, name=name)
        return None

    def mix(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
        weights: jax.Array,
    ) -> jax.Array:
        """As `AdapterKind.mix`: one LoRA of all ranks, its middle weighted."""
        del module
        middle = self._middle(params, inputs, outputs) * weights[..., None]
        lora_b = params["lora_b"].astype(outputs.dtype)
        num_experts, rank, features = lora_b.shape
        added = jnp.dot(
            middle.reshape(*middle.shape[:-2], num_experts * rank),
            lora_b.reshape(num_experts * rank, features),
        )
        return outputs + jnp.asarray(self.scale, outputs.dtype) * added

    def effect(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
    ) -> jax.Array:
        """As `AdapterKind.effect`: the scaled product."""
        del module
        dtype = outputs.dtype
        middle = jnp.dot(inputs.astype(dtype), params["lora_a"].astype(dtype))
        added = jnp.dot(middle, params["lora_b"].astype(dtype))
        return jnp.asarray(self.scale, dtype) * added

    def norms(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
    ) -> jax.Array:
        """As `AdapterKind.norms`, from the middle and the products of `lora_b`."""
        del module
        middle = self._middle(params, inputs, outputs).astype(jnp.float32)
        # It may be in the compute dtype; squares of small differences need more.
        lora_b = params["lora_b"].astype(jnp.float32)
        gram = float32_sums.einsum("erd,esd->ers", lora_b, lora_b)
        squares = float32_sums.einsum("...er,ers,...es->...e", middle, gram, middle)
        return self.scale * jnp.sqrt(jnp.maximum(squares, 0))

    def _middle(
        self, params: types.Params, inputs: jax.Array, outputs: jax.Array
    ) -> jax.Array:
        """Returns what lies between the two matrices, [..., experts, rank]."""
        lora_a, dtype = params["lora_a"], outputs.dtype
        num_experts, features, rank = lora_a.shape
        kernel = lora_a.astype(dtype).swapaxes(0, 1)
        kernel = kernel.reshape(features, num_experts * rank)
        middle = jnp.dot(inputs.astype(dtype), kernel)
        return middle.reshape(*inputs.shape[:-1], num_experts, rank)

    def repeated(self, times: int) -> "Lora":
        """Returns the spec of `times` as many ranks, with the same scale."""
        more = math.sqrt(times) if self.rank_stabilized else times
        return dataclasses.replace(
            self, rank=self.rank * times, alpha=self.alpha * more
        )

    def of_rank(self, rank: int) -> "Lora":
        """Returns the spec of another rank, with the same scale."""
        if rank == self.rank:
            return self
        root = math.sqrt(rank) if self.rank_stabilized else rank
        return dataclasses.replace(self, rank=rank, alpha=self.scale * root)

    def fold(
        self, path: str, parts: Mapping[str, np.ndarray], kernels: dict[str, Any]
    ) -> None:
        """Adds the scaled product of the two matrices to the projection's."""
        product = np.float32(self.scale) * (parts["lora_a"] @ parts["lora_b"])
        name = f"{path}/kernel"
        kernels[name] = np.asarray(kernels[name]) + product
