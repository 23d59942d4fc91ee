"""The optimisers of the paper's experts, as configuration that makes Optax ones.

Prompt experts were trained with AdamW and a linear decay, dataset experts with the
Adafactor of Hugging Face at a constant rate. The two differ from these here by
rounding only, and in that a gradient's norm is not padded by 1e-6 before clipping
and AdamW's epsilon is added after bias correction, not before.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import optax

from elm_jax import fields, trees, types
from elm_jax.training import schedules


class Optimizer(Protocol):
    """What a run may be configured with."""

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """Returns the transformation; its new states are for `num_steps` steps."""
        ...

    def schedule(self, num_steps: int) -> schedules.Schedule:
        """Returns the rates of a training of `num_steps` steps."""
        ...

    def learning_rate_at(self, step: int, *, num_steps: int) -> float:
        """Returns the rate of the update that follows `step` finished ones."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay, by default as prompt experts used it.

    Attributes:
      learning_rate: Rate at its highest.
      warmup_steps: Steps of a linear rise from 0, counted within all steps.
      decay: `linear`, to 0 after the last step, or `constant`.
      weight_decay: Share of a parameter that is taken off, times the rate.
      clip_norm: Largest norm of the gradient over all parameters; None for any.
      b1: Decay of the mean of gradients.
      b2: Decay of the mean of squared gradients.
      eps: Added to the root of that mean.
      scale_by_parameter: Whether a tensor's rate is also multiplied by the root
        mean square of its values, at least 1e-3, layer by layer. Matrices of a T5
        from scratch differ thirtyfold in size; one rate leaves it on a plateau.

    Reference:
      Loshchilov and Hutter, https://arxiv.org/abs/1711.05101
    """

    learning_rate: fields.NotNegative = 1e-4
    warmup_steps: fields.CountOrNone = 0
    decay: Literal["linear", "constant"] = "linear"
    weight_decay: fields.NotNegative = 0.0
    clip_norm: fields.Positive | None = 1.0
    b1: fields.ShareBelowOne = 0.9
    b2: fields.ShareBelowOne = 0.999
    eps: fields.Positive = 1e-8
    scale_by_parameter: bool = False

    def __post_init__(self) -> None:
        fields.check(self)

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """Returns the transformation; its new states are for `num_steps` steps."""
        # Rates are in the state, so that trainings at all of them share one program.
        any_rate = dataclasses.replace(
            self, learning_rate=0.0, warmup_steps=0, decay="constant"
        )
        return schedules.starting_with(_adamw(any_rate), self.schedule(num_steps))

    def learning_rate_at(self, step: int, *, num_steps: int) -> float:
        """Returns the rate of the update that follows `step` finished ones.

        >>> AdamW(learning_rate=0.5).learning_rate_at(50, num_steps=100)
        0.25
        """
        return float(schedules.rate_at(self.schedule(num_steps), step))

    def schedule(self, num_steps: int) -> schedules.Schedule:
        """Returns the rates of a training of `num_steps` steps."""
        end = 0.0 if self.decay == "linear" else self.learning_rate
        return schedules.Schedule(self.learning_rate, end, self.warmup_steps, num_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
    """Adafactor at a constant rate, as dataset experts used it.

    Neither relative steps nor scaling by the size of the parameter. Every matrix
    is factored, and every tensor of every layer is clipped on its own, although
    layers are stacked in one array.

    Attributes:
      learning_rate: The rate after warm-up.
      warmup_steps: Steps of a linear rise from 0.
      clip_norm: Largest norm of the gradient over all parameters; None for any.
      decay_rate: The mean of squares forgets as `1 - (step + 1) ** -decay_rate`.
      eps: Added to squared gradients.
      clip_threshold: Largest root mean square of a tensor's update before the rate.

    Reference:
      Shazeer and Stern, https://arxiv.org/abs/1804.04235, algorithms 4 and 5
    """

    learning_rate: fields.NotNegative = 1e-4
    warmup_steps: fields.CountOrNone = 0
    clip_norm: fields.Positive | None = 0.5
    decay_rate: fields.Share = 0.8
    eps: fields.Positive = 1e-30
    clip_threshold: fields.Positive = 1.0

    def __post_init__(self) -> None:
        fields.check(self)

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """Returns the transformation; its new states are for `num_steps` steps."""
        any_rate = dataclasses.replace(self, learning_rate=0.0, warmup_steps=0)
        return schedules.starting_with(_adafactor(any_rate), self.schedule(num_steps))

    def learning_rate_at(self, step: int, *, num_steps: int) -> float:
        """Returns the rate of the update that follows `step` finished ones.

        >>> Adafactor(learning_rate=0.5, warmup_steps=4).learning_rate_at(
        ...     1, num_steps=8
        ... )
        0.125
        """
        return float(schedules.rate_at(self.schedule(num_steps), step))

    def schedule(self, num_steps: int) -> schedules.Schedule:
        """Returns the rates of a training of `num_steps` steps."""
        rate = self.learning_rate
        return schedules.Schedule(rate, rate, self.warmup_steps, num_steps)


@functools.lru_cache(maxsize=32)
def _adamw(options: AdamW) -> optax.GradientTransformation:
    adamw = optax.chain(
        optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps),
        optax.add_decayed_weights(options.weight_decay),
        schedules.scale_by_schedule(),
    )
    parts = [_clip(options.clip_norm), adamw]
    if options.scale_by_parameter:
        parts.append(per_tensor(optax.scale_by_param_block_rms()))
    return _allow_promotion(optax.chain(*parts))


@functools.lru_cache(maxsize=32)
def _adafactor(options: Adafactor) -> optax.GradientTransformation:
    factored = optax.scale_by_factored_rms(
        decay_rate=options.decay_rate, epsilon=options.eps, min_dim_size_to_factor=1
    )
    clipped = optax.clip_by_block_rms(options.clip_threshold)
    return _allow_promotion(
        optax.chain(
            _clip(options.clip_norm),
            per_tensor(optax.chain(factored, clipped)),
            schedules.scale_by_schedule(),
        )
    )


def per_tensor(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` applied to each tensor alone, each layer of a stack a tensor.

    Stacks are the leaves below a key `layers`; their layers lie on axis 0. The
    state is a mapping from parameter names, with that same axis in front.
    """

    def lift(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
        return jax.vmap(fn) if types.LAYERS in name.split("/") else fn

    def init(params: Any) -> dict[str, Any]:
        leaves = trees.flatten(params).items()
        return {name: lift(tx.init, name)(leaf) for name, leaf in leaves}

    def update(updates: Any, state: Any, params: Any | None = None) -> tuple[Any, Any]:
        leaves = trees.flatten({} if params is None else params)
        results = {
            name: lift(tx.update, name)(leaf, state[name], leaves[name])
            for name, leaf in trees.flatten(updates).items()
        }
        new_updates = {name: result[0] for name, result in results.items()}
        return trees.unflatten(new_updates), {n: r[1] for n, r in results.items()}

    return optax.GradientTransformation(init, update)


def _clip(max_norm: float | None) -> optax.GradientTransformation:
    return optax.identity() if max_norm is None else optax.clip_by_global_norm(max_norm)


def _allow_promotion(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns `tx` for callers with strict types: Optax mixes its counts in."""

    def update(updates: Any, state: Any, params: Any | None = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)
