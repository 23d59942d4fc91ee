"""Merging number by number: what is kept, how signs are agreed on, how it is summed.

The methods of this family differ in three choices only, each of which is an option of
`Elementwise`. A name that users know is a subclass with other defaults. Of a LoRA the
numbers are those of its core, its two matrices apart, as in PEFT, or those of KnOTS.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np

from elm_jax import fields
from elm_jax.merging import agreeing, by_layer, keeping, threads, views
from elm_jax.merging.deltas import DeltaMethod, Layer, by_parts
from elm_jax.merging.method import Unit

_AT_ONCE = 1 << 17  # numbers, of all experts
_TRIMS = "it keeps only a part of what an expert changes"
_TRIMMED: Mapping[str, str] = MappingProxyType(
    {"one_expert": _TRIMS, "one_hot": _TRIMS, "equal_experts": _TRIMS}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elementwise(DeltaMethod):
    """The base and what is made of the experts' changes, number by number.

    `scale * combine(w_t keep(d_t))` over the experts t whose number has the sign that
    was agreed on, d_t what they change.

    Tools: their names are subclasses with other defaults. PEFT and mergekit count what
    is kept by tensor, as here, and FusionBench in the whole expert.

    Attributes:
      keep: Which numbers of a change are kept: "all"; "magnitude", the greatest;
        "random", each by chance; "outliers", the greatest but for the very greatest;
        "della", by chance, greater ones rather.
      density: The share that is kept.
      per: What "magnitude" counts: the numbers of one layer of one tensor, or those of
        the whole expert.
      dropped: Of "outliers", the share of the very greatest.
      spread: Of "della", how far chances are from their mean, the density.
      rescale: How kept numbers are scaled up for the dropped ones: not, by "density"
        (divided by it), or to the sum of sizes that there was ("l1").
      sign: Whose numbers count: everybody's ("all"), or those of one sign: that of the
        "sum", or the one that more experts have ("count"). A tie is positive.
      vote: Whether signs are agreed on with changes times weights ("weighted") or
        without ("plain").
      combine: "sum" of the numbers times weights; "mean", that divided by how many
        count; "normalised", divided by the sum of the weights of those that count,
        without their signs, so that an expert of negative weight is subtracted.
      random_seed: Of "random" and "della".
      space: In which numbers a LoRA is merged: those of its "core", of its two
        matrices apart ("parameters"), each of which then gets the root of a weight and
        of the scale, as in PEFT; or of "knots".
    """

    keep: keeping.Keep = "all"
    density: fields.ShareAboveZero = 1.0
    per: Literal["tensor", "expert"] = "tensor"
    dropped: fields.ShareBelowOne = 0.01
    spread: fields.Share = 0.15
    rescale: keeping.Rescale = "none"
    sign: agreeing.Sign = "all"
    vote: agreeing.Vote = "weighted"
    combine: agreeing.Combine = "sum"
    random_seed: fields.Seed = 0
    space: views.Space = "core"

    name: ClassVar[str] = "elementwise"
    reference: ClassVar[str] = "Yang et al. 2024, arXiv:2408.07666 (survey)"

    def __post_init__(self) -> None:
        """Raises ConfigError for options that do not go together."""
        super().__post_init__()
        wrong = {}
        if self.keep == "della":
            least, most = self.density - self.spread, self.density + self.spread
            if least <= 0 or most > 1:
                wrong["spread"] = "chances, density - spread to density + spread, above"
                wrong["spread"] += " 0 and at most 1"
        if self.keep == "all" and self.density < 1.0:
            wrong["density"] = '1, or another keep than "all"'
        if self.per == "expert" and self.keep not in ("all", "magnitude"):
            wrong["per"] = '"tensor", but for keep = "magnitude"'
        fields.refuse(self, wrong)

    @property
    def unit(self) -> Unit:
        """Adapters are one unit; all of an expert, if that is what is counted."""
        return "expert" if self.per == "expert" else "place"

    @property
    def ranks_experts(self) -> bool:
        """Whether all that an expert changes is ranked, to find what is kept."""
        return self.per == "expert" and self.keep == "magnitude"

    @property
    def _space(self) -> views.Space:
        return self.space

    @property
    def _has_factors(self) -> bool:
        return self.combine != "normalised"

    def _is_sum(self, layer: Layer) -> bool:
        del layer
        return self.combine == "sum"

    def _keeps_one(self) -> bool:
        is_whole = self.keep in ("all", "magnitude") and self.density == 1.0
        is_plain = self.scale == 1.0 and self.weights in ((), (1.0,)) and not self.rank
        return is_plain and is_whole

    def _look(self, every: by_layer.ByLayer) -> np.ndarray | None:
        """Returns the least size that is kept of each expert, if all of it counts."""
        if not self.ranks_experts:
            return None
        layers = [stack for view in every if 0 not in (stack := view.stack()).shape]
        changes = (
            np.concatenate([layer.change_of(place).ravel() for layer in layers])
            for place in range(len(every.experts))
        )
        return np.array([keeping.least(change, self.density) for change in changes])

    def _change(self, layer: Layer) -> np.ndarray:
        choices = self._choices(layer)
        return by_parts(layer, lambda part: self._summed(part, choices))

    def _summed(self, layer: Layer, choices: Sequence[keeping.Choice]) -> np.ndarray:
        """Returns the sum, or mean, of the chosen numbers in some rows."""
        changes = keeping.trimmed(layer.changes, choices, layer.rows)
        flat_changes = changes.reshape(len(changes), -1)
        # A few numbers of all experts at a time, so that they stay in the cache.
        at_once = max(1, _AT_ONCE // len(flat_changes))
        sums = threads.each(
            lambda start: agreeing.summed(
                flat_changes[:, start : start + at_once],
                layer.weights,
                sign=self.sign,
                vote=self.vote,
                combine=self.combine,
                is_inner=layer.is_inner,
            ),
            range(0, flat_changes.shape[1], at_once),
            numbers=flat_changes.size,
        )
        return np.concatenate(sums).reshape(changes.shape[1:])

    def _choices(self, layer: Layer) -> list[keeping.Choice]:
        """Returns what is kept of each expert's changes; nothing if all of it is."""
        if self.keep == "all":
            return []
        sources: Sequence[keeping.Source] = [None] * len(layer.weights)
        if self.keep in ("random", "della"):
            sources = keeping.generators(layer.name, layer.each(), self.random_seed)
        shares = self.density, self.dropped, self.spread

        def choose(place: int) -> keeping.Choice:
            change = layer.stack.change_of(place)
            if layer.findings is None:
                sparse = keeping.sparsify(change, self.keep, *shares, sources[place])
            else:
                sparse = np.where(np.abs(change) >= layer.findings[place], change, 0.0)
            return keeping.chosen(sparse, change, self.density, self.rescale)

        return threads.each(choose, range(len(sources)), numbers=layer.stack.num_held)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ties(Elementwise):
    """TIES: trim, elect a sign, and average those that agree with it.

    `scale * mean of w_t d_t` over the experts whose trimmed change d_t has the sign of
    `sum w_t d_t`. The paper keeps 20 % of the whole expert (`per = "expert"`) and tunes
    the scale, which is 1 otherwise.

    Tools: mergekit and PEFT trim by tensor, as here by default. mergekit keeps all of
    it unless a density is given, votes with weights, and divides by the sum of the
    weights that agree (`combine = "normalised"`). PEFT votes without weights (`vote =
    "plain"`) on A and B of a LoRA apart (`space = "parameters"`). FusionBench adds up
    instead (`combine = "sum"`) with a scale of 0.3.
    """

    name: ClassVar[str] = "ties"
    reference: ClassVar[str] = "Yadav et al. 2023, arXiv:2306.01708"
    breaks: ClassVar[Mapping[str, str]] = _TRIMMED
    keep: keeping.Keep = "magnitude"
    density: fields.ShareAboveZero = 0.2
    sign: Literal["all", "sum", "count"] = "sum"
    combine: Literal["sum", "mean", "normalised"] = "mean"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Magnitude(Elementwise):
    """The weighted sum of changes of which only the greatest numbers are kept.

    `scale * sum w_t top(d_t)`, `top` the greatest 20 % of a tensor.

    Tools: PEFT's `magnitude_prune`. mttl counts the whole adapter (`per = "expert"`).
    """

    name: ClassVar[str] = "magnitude"
    reference: ClassVar[str] = (
        "Yadav et al. 2023, arXiv:2306.01708 (the first step of TIES)"
    )
    breaks: ClassVar[Mapping[str, str]] = _TRIMMED
    keep: keeping.Keep = "magnitude"
    density: fields.ShareAboveZero = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dare(Elementwise):
    """DARE: drop numbers by chance, and rescale those that are left.

    `scale * sum w_t m_t d_t / density`, each number of m_t 1 by a chance of `density`.

    Tools: the paper, PEFT and FusionBench divide by the density, as here; mergekit
    gives what is left the sum of sizes that there was (`rescale = "l1"`). The paper
    drops up to 90 or 99 %; FusionBench's default is 50 %, as here.
    """

    name: ClassVar[str] = "dare"
    reference: ClassVar[str] = "Yu et al. 2023, arXiv:2311.03099"
    breaks: ClassVar[Mapping[str, str]] = _TRIMMED
    keep: keeping.Keep = "random"
    density: fields.ShareAboveZero = 0.5
    rescale: keeping.Rescale = "density"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DareTies(Dare):
    """DARE, and the signs of TIES: a sum of those that agree with the elected sign.

    `scale * sum w_t m_t d_t / density` over the experts whose `m_t d_t` has the sign of
    `sum w_t m_t d_t`.

    Tools: mergekit's `dare_ties` is this with `rescale = "l1"`; PEFT's votes without
    weights and divides by how many agree (`vote = "plain"`, `combine = "mean"`).
    """

    name: ClassVar[str] = "dare_ties"
    sign: Literal["all", "sum", "count"] = "sum"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Della(Elementwise):
    """DELLA: as DARE, but greater numbers are kept by a greater chance.

    In each row, the number of rank i of m by size is kept by the chance `density -
    spread + 2 * spread * (i - 1) / (m - 1)`, and those that are kept get the sum of
    sizes of all; then signs as in TIES, and the sum divided by the weights of those
    that agree: `scale * sum w_t m_t d_t / sum w_t`.

    Tools: mergekit's defaults, but for its density of 1, which no spread goes with.
    """

    name: ClassVar[str] = "della"
    reference: ClassVar[str] = "Deep et al. 2024, arXiv:2406.11617"
    breaks: ClassVar[Mapping[str, str]] = _TRIMMED
    keep: keeping.Keep = "della"
    density: fields.ShareAboveZero = 0.5
    rescale: keeping.Rescale = "l1"
    sign: Literal["all", "sum", "count"] = "sum"
    combine: Literal["sum", "mean", "normalised"] = "normalised"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Breadcrumbs(Elementwise):
    """Breadcrumbs: without the very greatest numbers, and without the small ones.

    `scale * sum w_t d_t` over the numbers of d_t that are left when the greatest 1 %
    are dropped and then the next 90 % are kept.

    Tools: mergekit's defaults, but for its density of 1. Before 0.1.5 it dropped the
    whole of every tensor that has less than 100 numbers, such as the bias of an
    adapter; here, and since, such a tensor loses no outlier.
    """

    name: ClassVar[str] = "breadcrumbs"
    reference: ClassVar[str] = "Davari and Belilovsky 2023, arXiv:2312.06795"
    breaks: ClassVar[Mapping[str, str]] = _TRIMMED
    keep: keeping.Keep = "outliers"
    density: fields.ShareAboveZero = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class BreadcrumbsTies(Breadcrumbs):
    """Breadcrumbs, and the signs of TIES.

    `scale * sum w_t d_t` over the numbers that are left and have the sign of their sum.

    Tools: mergekit's `breadcrumbs_ties`, as of `Breadcrumbs`.
    """

    name: ClassVar[str] = "breadcrumbs_ties"
    sign: Literal["all", "sum", "count"] = "sum"
