"""Names and protocols that several rooms share; no behaviour."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

# Nested string-keyed mapping whose leaves are arrays (or jax.ShapeDtypeStruct).
Params = Mapping[str, Any]

# Model features by T5X's names. int32 [batch, length], 0 is padding:
#   encoder_input_tokens, decoder_input_tokens, decoder_target_tokens,
#   decoder_loss_weights (float32: 1 where a target counts); packed batches add
#   {encoder,decoder}_segment_ids and {encoder,decoder}_positions.
Batch = Mapping[str, Any]

# Scalars by name, such as loss and learning_rate.
Metrics = Mapping[str, Any]

PAD_ID = 0
EOS_ID = 1
# Written in place of a token where a model's logits are not finite.
NOT_FINITE_ID = -1

# Leaves below a key of this name hold every layer of a stack, on axis 0.
LAYERS = "layers"


class Side(NamedTuple):
    """How adapters of several experts lie beside each other in one parameter.

    Attributes:
      axis: Along which the experts' parameters are joined.
      takes_factor: Whether an expert's factor belongs to this parameter.
      place: Name of the adapter that it is a part of.
      is_linear: Whether the adapter is nothing but the product of two such matrices,
        up to a factor that is common to all experts: the one that is joined along
        axis -1, then the one along axis -2.
    """

    axis: int
    takes_factor: bool
    place: str = ""
    is_linear: bool = False


class LossFn(Protocol):
    """`(params, batch, dropout_rng) -> (loss, metrics)`.

    The loss is the mean over weighted target tokens in nats, a float32 scalar;
    `metrics` holds sums and counts as float32 scalars. `dropout_rng` None means
    no dropout.
    """

    def __call__(
        self, params: Params, batch: Batch, dropout_rng: Any | None
    ) -> tuple[Any, Metrics]: ...


class Hook(Protocol):
    """Called by the train loop after a step, with host-side metrics."""

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None: ...


class ScheduledHook(Protocol):
    """A hook and when it is due; asked once after each step is on its way."""

    @property
    def hook(self) -> Hook: ...  # noqa: D102

    def is_due(self, step: int) -> bool: ...  # noqa: D102


class AdapterFn(Protocol):
    """Makes the adapter for an insertion point of the model, or None for none.

    Points: `<stack>/<sub-layer>` with stack `encoder` or `decoder` and sub-layer
    `self_attention`, `cross_attention` or `mlp`; and `<stack>/<sub-layer>/<part>`
    with part `query`, `key`, `value` or `out` of an attention, `wi` (or `wi_0`,
    `wi_1`, ...), `hidden` or `wo` of a feed-forward block. The module that comes back
    is called as `module(inputs, outputs, deterministic=...)` with what the point
    reads and gives, [..., features] each, and returns the new outputs. Its parameters
    lie below `<name>/`, and all names end in `_adapter`.
    """

    def __call__(self, point: str, *, name: str) -> Any | None: ...


@runtime_checkable
class NormFn(Protocol):
    """An AdapterFn that also makes the module of a layer norm; None for a plain norm.

    Points are those of sub-layers, for the norm in front of one, and `encoder` and
    `decoder` for the last norm of a stack. The module is called with what the norm has
    divided by its root mean square [..., features], and returns it scaled. `name` ends
    in `_norm`; the parameters lie below `<name>/`.
    """

    def routed_norm(self, point: str, *, name: str) -> Any | None: ...  # noqa: D102


class Embedder(Protocol):
    """Maps texts to vectors whose inner product is their likeness."""

    @property
    def name(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32 [len(texts), width]."""
        ...


ScoreFn = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
"""`(inputs [B, S], choices [B, C, T], choice_mask [B, C]) -> scores [B, C]`.

Float32 sums of the tokens' log-probabilities in nats; -inf where the mask is False.
"""
