"""Bottleneck adapters: a narrow detour behind a sub-layer, or beside it.

Reference:
  Houlsby et al., https://arxiv.org/abs/1902.00751; placed and initialised as in
  https://arxiv.org/abs/2302.03202. The parallel form: He et al.,
  https://arxiv.org/abs/2110.04366, with a scale of 1.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from elm_jax import errors, fields, float32_sums, parameters, types
from elm_jax.peft import kind as kinds
from elm_jax.peft import points

_ACTIVATIONS = ("gelu", "relu", "silu", "swish", "tanh")


class BottleneckAdapter(nn.Module):
    """Two dense layers with a narrow middle, added to the sub-layer's output.

    Parameters: `down/kernel` [D, width], `down/bias` [width], `up/kernel`
    [width, D], `up/bias` [D], all float32.

    Attributes:
      width: Of the middle.
      spec: The rest.
    """

    width: int
    spec: "Bottleneck"

    @nn.compact
    def __call__(
        self, inputs: jax.Array, outputs: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Maps a sub-layer's inputs and outputs [B, length, D] to new outputs."""
        del deterministic
        spec = self.spec
        x = inputs if spec.parallel else outputs
        init = nn.initializers.normal(stddev=spec.init_std)
        hidden = _Dense(self.width, init, name="down")(x)
        hidden = getattr(nn, spec.activation)(hidden)
        init = nn.initializers.zeros if spec.start_at_identity else init
        return outputs + _Dense(outputs.shape[-1], init, name="up")(hidden)


class _Dense(nn.Module):
    """A product with `kernel` [inputs, features] plus `bias` [features]."""

    features: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., inputs] to [..., features] of the same dtype."""
        shape = (x.shape[-1], self.features)
        kernel = parameters.declare(self, "kernel", self.kernel_init, shape)
        zeros = nn.initializers.zeros
        bias = parameters.declare(self, "bias", zeros, (self.features,))
        return float32_sums.shifted(float32_sums.product(x, kernel), bias)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bottleneck(kinds.AdapterKind):
    """Where bottleneck adapters go and how they start.

    The defaults are those of the paper's prompt experts.

    Attributes:
      kind: "bottleneck".
      reduction_factor: Model width divided by the adapter's.
      activation: "gelu" is the tanh approximation, also known as gelu_new.
      init_std: Standard deviation of the kernels at the start; small, so that an
        adapter starts near the identity, as the paper's do.
      points: Insertion points, out of `points.SUB_LAYERS`.
      parallel: Whether an adapter reads the sub-layer's input (behind the norm)
        instead of its output; it adds to the output in either case.
      start_at_identity: Whether `up` starts at zero, so that the model starts
        exactly as the base; the paper's do not.
    """

    kind: str = "bottleneck"
    reduction_factor: fields.Count = 32
    activation: str = "gelu"
    init_std: fields.NotNegative = 0.01
    points: tuple[str, ...] = (
        "encoder/self_attention",
        "encoder/mlp",
        "decoder/self_attention",
        "decoder/mlp",
    )
    parallel: bool = False
    start_at_identity: bool = False

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "down/kernel": ("inputs", "adapter"),
        "down/bias": ("adapter",),
        "up/kernel": ("adapter", "outputs"),
        "up/bias": ("outputs",),
    }
    beside: ClassVar[Mapping[str, tuple[int, bool]]] = {
        "down/kernel": (-1, False),
        "down/bias": (-1, False),
        "up/kernel": (-2, True),
    }
    neutral: ClassVar[Mapping[str, float]] = {"up/bias": 0.0}

    def __post_init__(self) -> None:
        """Raises ConfigError for a spec that no model can have."""
        fields.check(self)
        fields.refuse(self, self._wrong("bottleneck"))

    def _wrong(self, kind: str) -> dict[str, str]:
        wrong = {} if self.kind == kind else {"kind": kind}
        if self.activation not in _ACTIVATIONS:
            wrong["activation"] = f"one of {', '.join(_ACTIVATIONS)}"
        if not self.points or not {*self.points} <= {*points.SUB_LAYERS}:
            wrong["points"] = f"one or more of {', '.join(points.SUB_LAYERS)}"
        return wrong

    def adapter_fn(self, emb_dim: int) -> "Bottlenecks":
        """Returns what the model asks for the adapter of each insertion point.

        Args:
          emb_dim: Model width.

        Raises:
          ConfigError: The width is not a multiple of the reduction factor.
        """
        if emb_dim % self.reduction_factor:
            raise errors.ConfigError(
                found=f"reduction_factor = {self.reduction_factor} for a model"
                f" width of {emb_dim}",
                expected="a factor that divides the width",
                do="Choose another Bottleneck.reduction_factor",
            )
        return Bottlenecks(self, emb_dim // self.reduction_factor)

    def read(self, inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        """Returns the inputs for parallel adapters, the outputs for others."""
        return inputs if self.parallel else outputs

    def mix(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
        weights: jax.Array,
    ) -> jax.Array:
        """As `AdapterKind.mix`: one bottleneck of all widths, its middle weighted."""
        del module
        up = params["up"]
        hidden = self._hidden(params, inputs, outputs) * weights[..., None]
        num_experts, width, features = up["kernel"].shape
        kernel = up["kernel"].astype(outputs.dtype)
        added = jnp.dot(
            hidden.reshape(*hidden.shape[:-2], num_experts * width),
            kernel.reshape(num_experts * width, features),
        )
        bias = jnp.dot(weights, up["bias"].astype(outputs.dtype))
        return outputs + (added + bias)

    def effect(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
    ) -> jax.Array:
        """Like `AdapterKind.effect`: what the adapter adds to the output."""
        del module
        x, down, up = self.read(inputs, outputs), params["down"], params["up"]
        hidden = jnp.dot(x, down["kernel"].astype(x.dtype))
        hidden += down["bias"].astype(x.dtype)[None]
        hidden = getattr(nn, self.activation)(hidden)
        added = jnp.dot(hidden, up["kernel"].astype(x.dtype))
        return added + up["bias"].astype(x.dtype)[None]

    def norms(
        self,
        module: nn.Module,
        params: types.Params,
        inputs: jax.Array,
        outputs: jax.Array,
    ) -> jax.Array:
        """As `AdapterKind.norms`, from the middle and the products of `up` alone."""
        del module
        hidden = self._hidden(params, inputs, outputs).astype(jnp.float32)
        # They may be in the compute dtype; squares of small differences need more.
        kernel, bias = (
            params["up"][name].astype(jnp.float32) for name in ("kernel", "bias")
        )
        gram = float32_sums.einsum("ewd,evd->ewv", kernel, kernel)
        squares = float32_sums.einsum("...ew,ewv,...ev->...e", hidden, gram, hidden)
        mixed = float32_sums.einsum("ewd,ed->ew", kernel, bias)
        squares += 2 * float32_sums.einsum("...ew,ew->...e", hidden, mixed)
        squares += jnp.broadcast_to(jnp.sum(bias * bias, axis=-1), squares.shape)
        return jnp.sqrt(jnp.maximum(squares, 0))

    def _hidden(
        self, params: types.Params, inputs: jax.Array, outputs: jax.Array
    ) -> jax.Array:
        """Returns the middle of all adapters, [..., experts, width]."""
        x, down = self.read(inputs, outputs), params["down"]
        num_experts, features, width = down["kernel"].shape
        kernel = down["kernel"].astype(x.dtype).swapaxes(0, 1)
        hidden = jnp.dot(x, kernel.reshape(features, num_experts * width))
        hidden = hidden.reshape(*x.shape[:-1], num_experts, width)
        bias = down["bias"].astype(x.dtype)
        bias = bias.reshape((1,) * (x.ndim - 1) + bias.shape)
        return getattr(nn, self.activation)(hidden + bias)

    def repeated(self, times: int) -> "BottleneckSum":
        """Returns the spec of one bottleneck as wide as this many."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        count = fields.pop("count", 1) * times
        return BottleneckSum(**fields | {"kind": "bottleneck_sum", "count": count})


@dataclasses.dataclass(frozen=True, kw_only=True)
class BottleneckSum(Bottleneck):
    """Bottlenecks of several experts in one place: a bottleneck of all their widths.

    What merging by task arithmetic makes of them. A kind of its own, so that the
    settings and manifests of ordinary ones stay as they were.

    Attributes:
      kind: "bottleneck_sum".
      count: How many there are; each has the width that `reduction_factor` says.
    """

    kind: str = "bottleneck_sum"
    count: fields.Count = 2

    def __post_init__(self) -> None:
        """Raises ConfigError for a spec that no model can have."""
        fields.check(self)
        fields.refuse(self, self._wrong("bottleneck_sum"))

    def adapter_fn(self, emb_dim: int) -> "Bottlenecks":
        """Returns one bottleneck that is `count` times as wide."""
        adapter = super().adapter_fn(emb_dim)
        return dataclasses.replace(adapter, width=adapter.width * self.count)


@dataclasses.dataclass(frozen=True)
class Bottlenecks:
    """A spec for one model width; a types.AdapterFn."""

    spec: Bottleneck
    width: int

    def __call__(self, point: str, *, name: str) -> BottleneckAdapter | None:
        """Returns a new adapter module for `point`, or None where none belongs."""
        if point not in self.spec.points:
            return None
        return BottleneckAdapter(self.width, self.spec, name=name)
