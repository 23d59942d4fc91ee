"""Averages of parameters: the paper's way of merging, for adapters too."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

from elm_jax import fields
from elm_jax.merging import combining
from elm_jax.merging.method import Beside, Merged, MergeMethod, Unit
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(MergeMethod):
    """The mean of the experts' parameters.

    `sum x_t / T` over T experts with parameters x_t. Equal experts, and so a single
    one, merge to themselves, bit for bit.

    Tools: PEFT's `linear` adds up A and B of LoRAs apart, too, so that every expert's
    A is multiplied with every other's B. The mean of what LoRAs do is
    `task_arithmetic` with a scale of 1 / T.
    """

    name: ClassVar[str] = "uniform"
    reference: ClassVar[str] = (
        "Jang et al. 2023, arXiv:2302.03202 (top-k experts);"
        " Wortsman et al. 2022, arXiv:2203.05482 (uniform soup)"
    )
    shows_not_finite: ClassVar[bool] = True

    @property
    def unit(self) -> Unit:
        """Each number by itself."""
        return "value"

    def _needs_order(self, beside: Beside) -> bool:
        return False  # terms are sorted

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        del base, beside
        return Merged(_mean(experts, [1.0] * len(experts)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighted(MergeMethod):
    """The mean of the experts' parameters, weighted.

    `sum w_t x_t / sum w_t` over experts with parameters x_t. Equal experts, and so a
    single one, merge to themselves, bit for bit.

    Tools: as of `Uniform`; PEFT's `linear` gives A and B of a LoRA the root of a
    weight each.

    Attributes:
      weights: One per expert, at least 0 and not all 0, of which only the ratios count;
        empty for equal ones.
    """

    name: ClassVar[str] = "weighted"
    reference: ClassVar[str] = (
        "Matena and Raffel 2022, arXiv:2111.09832 (isotropic merging)"
    )
    only_ratios: ClassVar[bool] = True
    shows_not_finite: ClassVar[bool] = True
    weights: tuple[fields.Finite, ...] = ()

    @property
    def unit(self) -> Unit:
        """Each number by itself."""
        return "value"

    def _needs_order(self, beside: Beside) -> bool:
        return False  # terms are sorted

    def __post_init__(self) -> None:
        """Raises ConfigError for weights that make no average."""
        super().__post_init__()
        if self.weights and (min(self.weights) < 0 or math.fsum(self.weights) <= 0):
            combining.refuse(
                found=f"weights {list(self.weights)}",
                expected="weights of at least 0 with a sum above 0",
                do="Use task_arithmetic to subtract an expert",
            )

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        del base, beside
        return Merged(_mean(experts, self.weights or [1.0] * len(experts)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningMean(MergeMethod):
    """The mean of the experts' parameters, for any number of experts.

    `sum x_t / T`, as `Uniform`. They are added up one after another, in the order of
    their fingerprints, and those on disk are read one at a time, so that hundreds need
    no more memory than two. A sum may differ from that of `Uniform` in its last bit.
    Equal experts, and so a single one, merge to themselves, bit for bit.

    Tools: as of `Uniform`.
    """

    name: ClassVar[str] = "running_mean"
    reference: ClassVar[str] = Uniform.reference
    shows_not_finite: ClassVar[bool] = True

    @property
    def unit(self) -> Unit:
        """Each number by itself."""
        return "value"

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        del base, beside
        running_mean = combining.RunningMean()
        for expert in experts:  # in an order of their own
            running_mean.add(expert)
        return Merged(running_mean.mean())


def _mean(experts: Sequence[Params], weights: Sequence[float]) -> dict[str, object]:
    total = math.fsum(weights)
    return combining.combine(experts, [weight / total for weight in weights])
