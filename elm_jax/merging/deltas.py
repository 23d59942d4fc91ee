"""Methods that merge what experts change in the base, a layer at a time."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from elm_jax import fields, trees
from elm_jax.merging import by_layer, combining, stacks, views
from elm_jax.merging.method import Beside, Layout, Merged, MergeMethod, Unit
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of all experts, or some rows of it.

    Cores of LoRAs may take much more memory than the experts: methods use `total`,
    `each`, `parts` or what `stack` makes of them, and `changes` only where they need
    all numbers at once.

    Attributes:
      name: Such as `encoder/layers_3/mlp/wi/kernel`.
      stack: What each expert changes in the whole layer, float64 [experts, ...].
      weights: Of the experts, float64 [experts]; on inner sides only how they compare.
      is_inner: Whether it is an inner side of bottlenecks.
      frames: Orthonormal columns, and rows, in which matrices are written that are
        cores of LoRAs; None for matrices that are what they are.
      findings: What the method has found in all layers.
      rows: Which of the layer.
    """

    name: str
    stack: stacks.Stack
    weights: np.ndarray
    is_inner: bool = False
    frames: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    findings: Any = None
    rows: stacks.Rows = ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what each expert changes in the whole layer: [experts, ...]."""
        return self.stack.shape

    @property
    def matrices(self) -> stacks.Matrices:
        """What each expert changes, in a layer that is a matrix."""
        assert isinstance(self.stack, stacks.Matrices)  # noqa: S101 - all are
        return self.stack

    @functools.cached_property
    def changes(self) -> np.ndarray:
        """What each expert changes in these rows, float64 [experts, ...].

        The method may write into it.
        """
        return self.stack.some(self.rows)

    @property
    def total(self) -> np.ndarray:
        """The sum of what experts change in the whole layer, times their weights."""
        return self.stack.total(self.weights)

    def each(self) -> Iterator[np.ndarray]:
        """Yields what each expert changes in the whole layer, which is read only."""
        return (self.stack.change_of(place) for place in range(len(self.weights)))

    def parts(self) -> Iterator["Layer"]:
        """Yields the layer with some rows alone; with all of them, where these fit."""
        for rows in self.stack.parts():
            yield dataclasses.replace(self, rows=rows)

    @property
    def weighted(self) -> np.ndarray:
        """What each expert changes, times its weight."""
        if (self.weights == 1.0).all():
            return self.changes
        return self.changes * self.along(self.weights)

    def along(self, numbers: np.ndarray) -> np.ndarray:
        """Returns a number for each expert in a shape that multiplies changes."""
        return numbers.reshape(-1, *[1] * (len(self.shape) - 1))


def layer_of(
    view: views.View,
    weights: np.ndarray,
    findings: Any = None,
    *,
    are_factors: bool = True,
) -> Layer:
    """Returns one layer of all experts.

    The inner side of bottlenecks is averaged, whatever the size and the sign of the
    factors on what its units add: its weights are absolute values with a mean of 1.

    Args:
      view: The layer.
      weights: Of the experts.
      findings: What the method has found in all layers.
      are_factors: Whether weights are factors; else only their ratios count.
    """
    if view.is_inner:
        sizes = np.abs(weights)
        weights = sizes / (sizes.mean() or 1.0)
    elif view.half and are_factors:
        weights = _of_half(weights, view.half)
    return Layer(view.name, view.stack(), weights, view.is_inner, view.frames, findings)


def by_parts(layer: Layer, change_of: Callable[[Layer], np.ndarray]) -> np.ndarray:
    """Returns what the merged expert changes, computed for some rows at a time.

    Args:
      layer: Of all experts.
      change_of: Returns what is changed in the rows of a layer, [rows, ...], which does
        not depend on other rows.
    """
    change = np.empty(layer.shape[1:])
    for part in layer.parts():
        change[part.rows] = change_of(part)
    return change


def _of_half(factors: np.ndarray, half: views.Half) -> np.ndarray:
    """Returns the factors on one of two matrices, by the factors on their product."""
    roots = np.sqrt(np.abs(factors))
    return np.copysign(roots, factors) if half == "second" else roots


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeltaMethod(MergeMethod):
    """The base and what is made of the experts' differences from it.

    `views` says what an expert of each kind changes, and how the result becomes an
    expert again. A subclass defines `_change`.

    Attributes:
      weights: One per expert, a factor on what it changes; empty for 1 each.
      scale: Factor on what the merged expert changes.
      align: Whether hidden units of bottlenecks are matched first; `aligning` tells
        how. A common initial seed is no reason to leave it out.
      rank: Of the merged LoRAs; 0 for the sum of the experts' ranks, which loses
        nothing. What a lower one cuts off is told in the facts `discarded_energy`.
    """

    needs_base = True
    # Float64 arrays like what all experts change, which it holds at once; for plans.
    num_copies: ClassVar[int] = 1
    weights: tuple[fields.Finite, ...] = ()
    scale: fields.Finite = 1.0
    align: bool = True
    rank: fields.CountOrNone = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a rank where there is nothing to cut."""
        super().__post_init__()
        if self.rank and self._space == "parameters":
            fields.refuse(self, {"rank": '0, as space = "parameters" keeps the rank'})

    @property
    def on_effects(self) -> bool:
        """LoRAs are merged as products, but in the space of parameters."""
        return self._space != "parameters"

    @property
    def holds_cores(self) -> bool:
        """Whether it needs the cores of all experts' LoRAs at once."""
        return self._space == "knots"

    @property
    def ranks_experts(self) -> bool:
        """Whether it needs all numbers that an expert changes at once."""
        return False

    @property
    def unit(self) -> Unit:
        """Whole adapters are merged, as the parameters of one depend on each other."""
        return "place"

    @property
    def _space(self) -> views.Space:
        """In which numbers LoRAs are merged."""
        return "core"

    @property
    def only_ratios(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - of the class in other methods
        """Whether weights are no factors."""
        return not self._has_factors

    @property
    def _has_factors(self) -> bool:
        """Whether weights are factors; else only their ratios count."""
        return True

    def _is_sum(self, layer: Layer) -> bool:
        """Returns whether the changes of a layer are added up, not averaged."""
        del layer
        return True

    @abc.abstractmethod
    def _change(self, layer: Layer) -> np.ndarray:
        """Returns what the merged expert changes in one layer, without `scale`."""

    def _look(self, every: by_layer.ByLayer) -> Any:
        """Returns what has to be known of all layers before the first is merged."""
        del every

    def _layout(self, num_experts: int, rank: int) -> Layout:
        if not rank or self._space == "parameters":
            return Layout()
        return Layout(rank=self.rank or num_experts * rank)

    def _keeps_one(self) -> bool:
        is_plain = self.scale == 1.0 and self.weights in ((), (1.0,))
        return is_plain and not self.rank and "one_expert" not in self.breaks

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        assert base is not None  # noqa: S101 - `merge` has looked
        flat = [trees.flatten(expert) for expert in experts]
        weights = np.array(self.weights or (1.0,) * len(experts))
        rank = self._layout(len(experts), rank_of(flat[0], beside)).rank
        every = by_layer.of(
            flat,
            trees.flatten(base),
            beside,
            space=self._space,
            rank=rank,
            reference=int(np.argmax(weights)) if self.align else None,
        )
        facts, findings = {}, self._look(every)
        for view in every:
            layer = layer_of(view, weights, findings, are_factors=self._has_factors)
            if 0 in layer.shape:
                continue
            with np.errstate(over="ignore", invalid="ignore"):  # reported below
                change = self._change(layer)
                view.put(change * self._factor(layer, view.half))
            facts |= {
                f"{fact}/{view.name}": value for fact, value in view.facts.items()
            }
            del layer  # before the next one's changes are made
        for name, leaf in every.out.items():
            combining.check_finite(name, leaf)
        params = trees.unflatten(every.out)
        return Merged(params, rank=rank, facts=facts)

    def _factor(self, layer: Layer, half: views.Half) -> float:
        if half:
            return float(_of_half(np.array(self.scale, np.float64), half))
        if not layer.is_inner:
            return float(self.scale)
        total = float(layer.weights.sum())
        return 1.0 / (total or len(layer.weights)) if self._is_sum(layer) else 1.0


def rank_of(leaves: Mapping[str, Any], beside: Beside) -> int:
    """Returns the greatest rank of an expert's LoRAs, from its leaves; 0 for none."""
    return max(
        (leaves[n].shape[side.axis] for n, side in beside.items() if side.is_linear),
        default=0,
    )
