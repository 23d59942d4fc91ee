"""Routers that weigh a mixture's experts once for each input, after a look at it.

A first pass of the encoder, with even weights, shows what each expert's adapters would
add. By that a router weighs the experts, and these weights hold at all places of the
model, for the input's answer and for each of its answer choices.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from elm_jax import errors, fields, trees
from elm_jax.peft import mixture
from elm_jax.types import PAD_ID, Params

Array = jax.Array
# What the encoder showed at each place; see `mixture.observed`.
Seen = Mapping[str, Mapping[str, Array]]
_EPSILON = 1e-6
# Of which effects LoGo looks at: the first that the experts have.
_PLACES = ("attention/query", "attention", "mlp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputRouter(mixture.Router, abc.ABC):
    """A router by inputs; its first pass has even weights."""

    is_same_everywhere: ClassVar[bool] = True

    def weigh(
        self, params: Params, read: Array, norms: Array | None, count: int
    ) -> Array:
        """Returns even weights, with which the input is looked at."""
        del params, norms
        return jnp.full((*read.shape[:-1], count), 1 / count, jnp.float32)

    @abc.abstractmethod
    def weigh_inputs(self, observations: Seen, is_token: Array) -> Array:
        """Returns float32 weights [inputs, experts].

        Args:
          observations: What `mixture.observed` gives of the encoder's places.
          is_token: Bool [inputs, length], False for padding.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logo(InputRouter):
    """LoGo: the experts that would change an input most, or most definitely.

    The signal of an expert is the norm of its effect on the last token in the last
    layer, or 1 / (entropy of the effect's softmax + 1e-6). The `top_k` greatest are
    weighed by their signals, divided by these experts' sum; the effects are mixed so.

    The paper's are decoders with LoRAs on all projections; it looks at the query of
    the last layer of one pass with the sum of all experts. Ours, for an encoder: the
    last layer of the encoder, whose last token is the end token; a pass with the
    experts' mean, as a sum of many bottlenecks leads out of what layers know; where
    queries have no adapter, that behind the attention, or the feed-forward block; the
    mean over tokens, on demand.

    Attributes:
      top_k: Experts that get a weight; -1 for all. The paper takes 20 of 260.
      signal: The `norm`, or the `inverse_entropy`.
      token: Which tokens of the input count: the `last`, or the `mean` of all.
      place: At which adapters of the encoder, such as `mlp`; "" for the first of
        `attention/query`, `attention` and `mlp` that the experts have.

    Reference:
      Lee et al., https://arxiv.org/abs/2511.07129, and what its authors' program does.
    """

    top_k: fields.CountOrAll = 20
    signal: Literal["norm", "inverse_entropy"] = "norm"
    token: Literal["last", "mean"] = "last"
    place: str = ""

    @property
    def num_chosen(self) -> int:
        """How many get a weight; 0 for all."""
        return 0 if self.top_k == -1 else self.top_k

    @property
    def observes_entropies(self) -> bool:
        """Whether the signal is an entropy."""
        return self.signal == "inverse_entropy"

    def weigh_inputs(self, observations: Seen, is_token: Array) -> Array:
        """Returns the `top_k` greatest signals of each input, divided by their sum.

        Raises:
          ConfigError: The experts have no adapters at the place.
        """
        values = observations[self._place(observations)]
        signals = values["norms"][-1]
        if self.signal == "inverse_entropy":
            signals = 1 / (values["entropies"][-1] + _EPSILON)
        return shares(_of_inputs(signals, is_token, self.token), self.top_k)

    def _place(self, observations: Seen) -> str:
        parts = (self.place,) if self.place else _PLACES
        for part in parts:
            name = f"encoder/layers/{part}_adapter"
            if name in observations:
                return name
        raise errors.ConfigError(
            found=f"experts with adapters at {', '.join(observations) or 'no place'}",
            expected=f"one of the encoder's {', '.join(parts)}",
            do="Set Logo.place to one of these, as a part of the encoder's layers",
        )


def shares(signals: Array, top_k: int) -> Array:
    """Returns the greatest signals [..., experts] by their sum, 0 for the others.

    Of equal signals at the border the first experts are taken; where all signals are 0,
    the chosen experts have even weights.

    Args:
      signals: At least 0.
      top_k: How many; -1, or more than there are, for all.
    """
    number = signals.shape[-1]
    count = number if top_k == -1 else min(top_k, number)
    _, chosen = jax.lax.top_k(signals, count)
    mask = jax.nn.one_hot(chosen, number).sum(axis=-2)
    chosen_signals = signals * mask
    total = chosen_signals.sum(axis=-1, keepdims=True)
    return jnp.where(
        total > 0, chosen_signals / jnp.where(total > 0, total, 1), mask / count
    )


def weighing_first(
    program: Callable[..., Any], model: Any, spec: Any
) -> Callable[..., Any]:
    """Returns a program of a model that weighs its inputs first, where its router does.

    Args:
      program: Called with parameters, inputs int32 [B, S], and more.
      model: The `t5.T5` of the program.
      spec: Of its adapters; of other ones than a mixture with an `InputRouter` the
        program is returned as it is.
    """
    router = getattr(spec, "router", None)
    if not isinstance(router, InputRouter):
        return program
    weigh = jax.jit(make_weigh_fn(model, router))

    def call(params: Params, inputs: Any, *more: Any) -> Any:
        part = mixture.weights_of_inputs(params, weigh(params, inputs))
        return program(trees.join(params, part), inputs, *more)

    return call


def make_weigh_fn(model: Any, router: InputRouter) -> Callable[[Params, Any], Array]:
    """Returns `(params, inputs) -> weights`, float32 [inputs, experts].

    Args:
      model: A `t5.T5` with the mixture of the router.
      router: The router of that mixture.
    """
    # The router observes all experts, also where few are computed afterwards.
    every = dataclasses.replace(model.adapters.spec, only_chosen=False)
    model = model.clone(adapters=dataclasses.replace(model.adapters, spec=every))

    def weigh(params: Params, inputs: Any) -> Array:
        _, variables = model.apply(
            {"params": params},
            inputs,
            method=model.encode,
            mutable=[mixture.OBSERVED],
        )
        return router.weigh_inputs(mixture.observed(variables), inputs != PAD_ID)

    return weigh


def _of_inputs(signals: Array, is_token: Array, token: str) -> Array:
    """Returns [inputs, experts] of what tokens have, [inputs, length, experts]."""
    if token == "mean":  # noqa: S105 - a part of a text
        real = is_token[..., None].astype(jnp.float32)
        count = jnp.maximum(real.sum(axis=1), 1)
        return jnp.where(real > 0, signals, 0).sum(axis=1) / count
    places = jnp.arange(is_token.shape[1])
    last = jnp.max(jnp.where(is_token, places, 0), axis=1)
    return jnp.take_along_axis(signals, last[:, None, None], axis=1)[:, 0]
