"""Merging number by number, where what one expert changes is chosen over the others."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, ClassVar, Self

import numpy as np

from elm_jax import fields
from elm_jax.merging import by_layer, combining, views
from elm_jax.merging.deltas import DeltaMethod, Layer, by_parts, layer_of
from elm_jax.merging.method import Unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectingMethod(DeltaMethod):
    """The base and, for each number, a choice of what the experts change.

    Attributes:
      space: In which numbers a LoRA is merged, as of `elementwise.Elementwise`.
    """

    space: views.Space = "core"

    @property
    def _space(self) -> views.Space:
        return self.space

    def _is_sum(self, layer: Layer) -> bool:
        del layer
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MagMax(SelectingMethod):
    """MagMax: of each number, the greatest change, by size; of equal ones the positive.

    `scale * w_t d_t` of the expert with the greatest `|w_t d_t|`.

    Tools: the paper's scale is 0.5, and FusionBench's, whose documentation finds 0.6
    best; here it is 1, with which one expert is itself.
    """

    name: ClassVar[str] = "magmax"
    reference: ClassVar[str] = "Marczak et al. 2024, arXiv:2407.06322"
    breaks: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"equal_experts": "weights of sum 1 make each of equal changes smaller"}
    )

    def _change(self, layer: Layer) -> np.ndarray:
        return by_parts(layer, _greatest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sce(SelectingMethod):
    """SCE: select by variance, calculate weights, erase minorities.

    Of each tensor the share `density` of the numbers in which experts differ most, by
    variance, is kept. An expert's weight there is the mean of its squared kept changes,
    as a share of all experts'. Numbers whose sign is not that of the sum are left out:
    `scale * sum v_t d_t / sum v_t` over the others, v_t this weight times `w_t`.

    Tools: mergekit's `select_topk` is the density; 1 there and here keeps all. Equal
    experts differ in nothing, so that a density below 1 leaves nothing of them.

    Attributes:
      density: The share of the numbers in which experts differ that is kept.
    """

    name: ClassVar[str] = "sce"
    num_copies: ClassVar[int] = 5
    reference: ClassVar[str] = "Wan et al. 2024, arXiv:2408.07990"
    density: fields.ShareAboveZero = 1.0

    def __post_init__(self) -> None:
        """Raises ConfigError for weights that do not weigh."""
        super().__post_init__()
        _check_not_negative(self.weights)

    @property
    def _has_factors(self) -> bool:
        return False

    def _keeps_one(self) -> bool:
        return super()._keeps_one() and self.density == 1.0

    def _change(self, layer: Layer) -> np.ndarray:
        chosen = np.ones(layer.shape[1:], bool)
        if self.density < 1.0:
            variances = by_parts(layer, lambda part: part.changes.var(axis=0)).ravel()
            count = int(self.density * np.count_nonzero(variances))
            chosen.ravel()[np.argsort(-variances, kind="stable")[count:]] = False
        energies = np.zeros(len(layer.weights))
        for part in layer.parts():
            kept_changes = np.where(chosen[part.rows], part.changes, 0.0)
            energies += (
                np.square(kept_changes).reshape(len(kept_changes), -1).sum(axis=1)
            )
        shares = layer.weights * (energies if energies.any() else 1.0)

        def merged(part: Layer) -> np.ndarray:
            kept_part = np.where(chosen[part.rows], part.changes, 0.0)
            elected = np.where(kept_part.sum(axis=0) >= 0, 1.0, -1.0)
            counted = layer.along(shares) * (np.sign(kept_part) == elected)
            total, divisor = (kept_part * counted).sum(axis=0), counted.sum(axis=0)
            has_votes = divisor > 0
            return np.divide(total, divisor, out=np.zeros_like(total), where=has_votes)

        return by_parts(layer, merged)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consensus(SelectingMethod):
    """Consensus: task arithmetic, but only where two experts or more need it.

    `scale * m` where it is needed, m = `sum w_t d_t`. An expert needs a number if
    `|d_t| >= least |m - d_t|` (the mask of TALL). Numbers that fewer than `count`
    experts need are left as they are in the base, both those that one expert alone
    needs, and those that none does. With a single expert `count` is 1. The paper
    chooses `least` from 0.2 to 0.6 on validation rows; its scale of m is for `weights`.

    Tools: we have compared none.

    Attributes:
      least: How great a change must be beside all others'.
      count: How many experts must need a number.
    """

    name: ClassVar[str] = "consensus"
    num_copies: ClassVar[int] = 4
    reference: ClassVar[str] = "Wang et al. 2024, arXiv:2405.07813"
    least: fields.NotNegative = 0.4
    count: fields.Count = 2

    def _is_sum(self, layer: Layer) -> bool:
        del layer
        return True

    def _change(self, layer: Layer) -> np.ndarray:
        return by_parts(layer, self._needed)

    def _needed(self, layer: Layer) -> np.ndarray:
        total = layer.weighted.sum(axis=0)
        needs = np.abs(layer.changes) >= self.least * np.abs(total - layer.changes)
        enough = needs.sum(axis=0) >= min(self.count, len(layer.changes))
        return np.where(enough, total, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emr(SelectingMethod):
    """EMR: one change for all, and a mask and a factor for the expert at hand.

    Elected, e: of each number, the greatest change among the experts whose sign is that
    of the sum. For expert t, whose task is known, it is masked by m_t, 0 where t's sign
    is another, and multiplied by t's factor, the sum of sizes of its change over that
    of the masked one: `scale * m_t e * sum |d_t| / sum |m_t e|`. Without an expert it
    is the elected change of all, `scale * e`.

    Tools: we have compared none.

    Attributes:
      expert: Number of the expert whose task is known, from 0; -1 for none.
    """

    name: ClassVar[str] = "emr"
    reference: ClassVar[str] = "Huang et al. 2024, arXiv:2405.17461"
    breaks: ClassVar[Mapping[str, str]] = MagMax.breaks
    expert: Annotated[int, fields.Range(-1, 2**16, is_open_above=True)] = -1

    @property
    def unit(self) -> Unit:
        """An expert's factor is of all that it changes."""
        return "place" if self.expert < 0 else "expert"

    def check(self, num_experts: int) -> None:
        """Raises ConfigError unless it is given the expert that it names."""
        super().check(num_experts)
        is_used = not self.weights or self.weights[min(self.expert, num_experts - 1)]
        if self.expert >= num_experts or (self.expert >= 0 and not is_used):
            combining.refuse(
                found=f"expert {self.expert} of {num_experts}",
                expected="-1, or the number of an expert with a weight, from 0",
                do="Name the expert whose task the result is for",
            )

    def _for_experts(self, places: Sequence[int]) -> Self:
        method = super()._for_experts(places)
        if self.expert < 0:
            return method
        return dataclasses.replace(method, expert=[*places].index(self.expert))

    def _look(self, every: by_layer.ByLayer) -> float | None:
        if self.expert < 0:
            return None
        weights = np.array(self.weights or (1.0,) * len(every.experts))
        unmasked, masked = 0.0, 0.0
        for view in every:
            layer = layer_of(view, weights)
            if 0 in layer.shape:
                continue
            for part in layer.parts():
                unmasked += np.abs(_candidates(part)[self.expert]).sum()
                masked += np.abs(self._masked(part)).sum()
        return unmasked / masked if masked else 0.0

    def _change(self, layer: Layer) -> np.ndarray:
        if self.expert < 0:
            return by_parts(layer, _elected_of)
        factor = 1.0 if layer.is_inner else layer.findings
        return by_parts(layer, self._masked) * factor

    def _masked(self, layer: Layer) -> np.ndarray:
        candidates = _candidates(layer)
        elected = _elected(candidates)
        return np.where(elected * candidates[self.expert] > 0, elected, 0.0)


def _candidates(layer: Layer) -> np.ndarray:
    """Returns what is chosen among; weights are factors on what effects add alone."""
    return layer.changes if layer.is_inner else layer.weighted


def _greatest(layer: Layer) -> np.ndarray:
    """Returns the greatest change of each number, by size; of equal sizes positive."""
    candidates = _candidates(layer)
    most, least = candidates.max(axis=0), candidates.min(axis=0)
    return np.where(most >= -least, most, least)


def _elected_of(layer: Layer) -> np.ndarray:
    return _elected(_candidates(layer))


def _elected(changes: np.ndarray) -> np.ndarray:
    most, least = changes.max(axis=0), changes.min(axis=0)
    is_positive = changes.sum(axis=0) >= 0
    return np.where(is_positive, np.maximum(most, 0.0), np.minimum(least, 0.0))


def _check_not_negative(weights: Sequence[float]) -> None:
    if weights and min(weights) < 0:
        combining.refuse(
            found=f"weights {list(weights)}",
            expected="weights of at least 0",
            do="Use task_arithmetic to subtract an expert",
        )
