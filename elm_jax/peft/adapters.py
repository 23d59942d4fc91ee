"""Bottleneck adapters and where a spec puts them.

Reference:
  Houlsby et al., https://arxiv.org/abs/1902.00751; placed and initialised as in
  https://arxiv.org/abs/2302.03202.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from elm_jax import errors

POINTS = (
    "encoder/self_attention",
    "encoder/mlp",
    "decoder/self_attention",
    "decoder/cross_attention",
    "decoder/mlp",
)
_ACTIVATIONS = ("gelu", "relu", "silu", "swish", "tanh")


class BottleneckAdapter(nn.Module):
    """Two dense layers with a narrow middle, added to their own input.

    Parameters: `down/kernel` [D, width], `down/bias` [width], `up/kernel`
    [width, D], `up/bias` [D], all float32.

    Attributes:
      width: Of the middle.
      activation: Name in flax.linen of the function in the middle.
      init_std: Standard deviation of both kernels at the start; biases start at 0.
    """

    width: int
    activation: str
    init_std: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, length, D] to the same shape and dtype."""
        init = nn.initializers.normal(stddev=self.init_std)
        options = {"dtype": x.dtype, "param_dtype": jnp.float32, "kernel_init": init}
        hidden = nn.Dense(self.width, **options, name="down")(x)
        hidden = getattr(nn, self.activation)(hidden)
        return x + nn.Dense(x.shape[-1], **options, name="up")(hidden)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterSpec:
    """Which adapter goes where; JSON-ready by `dataclasses.asdict`.

    The defaults are those of the paper's prompt experts.

    Attributes:
      kind: "bottleneck".
      reduction_factor: Model width divided by the adapter's.
      activation: "gelu" is the tanh approximation, also known as gelu_new.
      init_std: Standard deviation of the kernels at the start; small, so that an
        adapter starts near the identity.
      points: Insertion points, out of `POINTS`.
    """

    kind: str = "bottleneck"
    reduction_factor: int = 32
    activation: str = "gelu"
    init_std: float = 0.01
    points: tuple[str, ...] = (
        "encoder/self_attention",
        "encoder/mlp",
        "decoder/self_attention",
        "decoder/mlp",
    )

    def __post_init__(self) -> None:
        """Raises ConfigError for a spec that no model can have."""
        wrong = {}
        if self.kind != "bottleneck":
            wrong["kind"] = "bottleneck"
        if type(self.reduction_factor) is not int or self.reduction_factor < 1:
            wrong["reduction_factor"] = "a whole number of at least 1"
        if self.activation not in _ACTIVATIONS:
            wrong["activation"] = f"one of {', '.join(_ACTIVATIONS)}"
        if not isinstance(self.init_std, int | float) or self.init_std < 0:
            wrong["init_std"] = "a number of at least 0"
        if not isinstance(self.points, tuple) or not set(self.points) <= set(POINTS):
            wrong["points"] = f"a tuple out of {', '.join(POINTS)}"
        if wrong:
            raise errors.ConfigError(
                errors.explain(
                    found=", ".join(f"{n} = {getattr(self, n)!r}" for n in wrong),
                    expected="; ".join(f"{n}: {text}" for n, text in wrong.items()),
                    do="Correct these fields of AdapterSpec",
                )
            )

    def adapter_fn(self, emb_dim: int) -> "Adapters":
        """Returns what the model asks for the adapter of each insertion point.

        Args:
          emb_dim: Model width.

        Raises:
          ConfigError: The width is not a multiple of the reduction factor.
        """
        if emb_dim % self.reduction_factor:
            raise errors.ConfigError(
                errors.explain(
                    found=f"reduction_factor = {self.reduction_factor} for a model"
                    f" width of {emb_dim}",
                    expected="a factor that divides the width",
                    do="Choose another AdapterSpec.reduction_factor",
                )
            )
        return Adapters(self, emb_dim // self.reduction_factor)


@dataclasses.dataclass(frozen=True)
class Adapters:
    """A spec for one model width; a types.AdapterFn."""

    spec: AdapterSpec
    width: int

    def __call__(self, point: str, *, name: str) -> BottleneckAdapter | None:
        """Returns a new adapter module for `point`, or None where none belongs."""
        if point not in self.spec.points:
            return None
        spec = self.spec
        return BottleneckAdapter(self.width, spec.activation, spec.init_std, name=name)
