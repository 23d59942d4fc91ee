"""Task arithmetic: a weighted sum of what experts change, on top of the base."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from elm_jax import fields, trees
from elm_jax.merging import combining
from elm_jax.merging.method import Beside, Layout, Merged, MergeMethod, Unit
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskArithmetic(MergeMethod):
    """The base and `scale * sum_i weights_i * (expert_i - base)`.

    The terms of the base are gathered, `(1 - scale * sum_i weights_i) * base`, so that
    no digit of an expert is lost in a difference that is added back. Of adapters, whose
    base adds nothing, effects are summed exactly: they are put beside each other, those
    with a factor of 0 left out.

    Scale 0 gives the base bit for bit (of adapters: one of an expert's size that adds
    nothing), and one expert with scale 1 merges to itself.

    Tools: FusionBench's scale is 0.3; the paper chooses it by validation rows, as
    `merge_searches.Sweep` does. PEFT's `cat` is this sum of LoRAs. Its `linear` has
    products of one expert's A with another's B, and its `svd` counted a LoRA's scale
    twice.

    Attributes:
      weights: One per expert; empty for 1 each. A negative one subtracts an expert.
      scale: Factor on the sum.
    """

    name: ClassVar[str] = "task_arithmetic"
    reference: ClassVar[str] = (
        "Ilharco et al. 2023, arXiv:2212.04089, section 2; for adapters"
        " huggingface/peft 0.21, LoraModel.add_weighted_adapter, `cat`"
    )
    shows_not_finite: ClassVar[bool] = True
    needs_base: ClassVar[bool] = True
    weights: tuple[fields.Finite, ...] = ()
    scale: fields.Finite = 1.0

    @property
    def on_effects(self) -> bool:
        """LoRAs are put beside each other."""
        return True

    @property
    def unit(self) -> Unit:
        """Each number by itself."""
        return "value"

    def _needs_order(self, beside: Beside) -> bool:
        return bool(beside)  # other terms are sorted

    def _factors(self, num_experts: int) -> list[float]:
        weights = self.weights or [1.0] * num_experts
        return [float(self.scale) * float(weight) for weight in weights]

    def _layout(self, num_experts: int, rank: int) -> Layout:
        del rank
        factors = self._factors(num_experts)
        return Layout(max(1, sum(factor != 0.0 for factor in factors)))

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        assert base is not None  # noqa: S101 - `merge` has looked
        factors = self._factors(len(experts))
        flat = [trees.flatten(expert) for expert in experts]
        summed = [_without(leaves, beside) for leaves in flat]
        combining.check_alike(summed, base)
        params = combining.combine(
            [base, *summed], [1.0 - math.fsum(factors), *factors]
        )
        if not beside:
            return Merged(params, self._layout(len(experts), 0).num_beside)
        used = zip(flat, factors, strict=True)
        parts = [part for part in used if part[1] != 0.0] or [(flat[0], 0.0)]
        joined = {
            name: _put_beside(name, parts, axis=side.axis, scaled=side.takes_factor)
            for name, side in beside.items()
        }
        return Merged(trees.join(params, trees.unflatten(joined)), len(parts))


def _without(leaves: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return trees.unflatten({n: leaf for n, leaf in leaves.items() if n not in names})


def _put_beside(
    name: str,
    parts: Sequence[tuple[Mapping[str, Any], float]],
    *,
    axis: int,
    scaled: bool,
) -> np.ndarray:
    arrays = []
    for leaves, factor in parts:
        array = np.asarray(leaves[name])
        if scaled and factor != 1.0:
            with np.errstate(over="ignore"):  # reported by name below
                array = (array.astype(np.float64) * factor).astype(array.dtype)
        arrays.append(array)
    joined = np.concatenate(arrays, axis)
    combining.check_finite(name, joined)
    return joined
