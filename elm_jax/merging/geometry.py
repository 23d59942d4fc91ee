"""Merging by lengths and angles of what experts change."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from elm_jax import fields, trees
from elm_jax.merging import combining, layers
from elm_jax.merging.deltas import DeltaMethod, Layer
from elm_jax.merging.method import Beside, Merged, MergeMethod, Unit
from elm_jax.types import Params

# Above it, the arc is as good as a straight line, and its formula divides by nearly 0.
_PARALLEL = 0.9995


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelStock(DeltaMethod):
    """Model stock: the mean, drawn towards the base by the angle between experts.

    Per tensor, with c the mean cosine of two of the T experts' changes,
    `u = T c / (1 + (T - 1) c)` times their mean; at least 0. Experts that agree keep
    their mean, and orthogonal ones leave the base as it is: it is for experts of one
    task, and of little use for several.

    Tools: mergekit's, per tensor, without the bound. The paper's code has two experts
    and the angle, of which `2 c / (1 + c)` is the same.
    """

    name: ClassVar[str] = "model_stock"
    num_copies: ClassVar[int] = 2
    reference: ClassVar[str] = "Jang et al. 2024, arXiv:2403.19522"

    @property
    def only_ratios(self) -> bool:
        """True: it is a mean that is drawn."""
        return True

    def _is_sum(self, layer: Layer) -> bool:
        del layer
        return False

    def __post_init__(self) -> None:
        """Raises ConfigError for weights that make no average."""
        super().__post_init__()
        if self.weights and (min(self.weights) < 0 or not any(self.weights)):
            combining.refuse(
                found=f"weights {list(self.weights)}",
                expected="weights of at least 0 with a sum above 0",
                do="Use task_arithmetic to subtract an expert",
            )

    def _change(self, layer: Layer) -> np.ndarray:
        count = len(layer.weights)
        mean = layer.total / layer.weights.sum()
        if count == 1:
            return mean
        sizes = np.array([np.linalg.norm(change) for change in layer.each()])
        sizes = np.where(sizes > 0, sizes, 1.0)[:, None]
        cosines = np.zeros((count, count))
        for part in layer.parts():
            units = part.changes.reshape(count, -1) / sizes
            cosines += units @ units.T
        cosine = (cosines.sum() - np.trace(cosines)) / (count * (count - 1))
        ratio = count * cosine / (1 + (count - 1) * cosine) if cosine > 0 else 0.0
        return ratio * mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slerp(MergeMethod):
    """SLERP: the point on the arc between the parameters of two experts.

    Per tensor, with a the angle between their parameters and t the second one's share
    of the weights, `sin((1 - t) a) / sin a x_1 + sin(t a) / sin a x_2`; a straight line
    above a cosine of 0.9995. The parameters are taken as they are, those of LoRAs and
    bottlenecks, too. Fine-tuned models lie so near each other that it is their mean.

    Tools: mergekit's, with the same limit. Its NuSLERP takes all of a tensor as one
    vector, as this does, and can take differences from a base, which this does not.

    Attributes:
      weights: Two, at least 0, of which the ratio counts; empty for equal ones.
    """

    name: ClassVar[str] = "slerp"
    reference: ClassVar[str] = (
        "Shoemake 1985, doi:10.1145/325334.325242; arcee-ai/mergekit 0.1.5;"
        " Goddard et al. 2024, arXiv:2403.13257"
    )
    breaks: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"sign": "it merges parameters, whatever the base is"}
    )
    only_ratios: ClassVar[bool] = True
    weights: tuple[fields.NotNegative, ...] = ()

    @property
    def unit(self) -> Unit:
        """The angle is of one tensor's numbers."""
        return "tensor"

    def check(self, num_experts: int) -> None:
        """Raises ConfigError unless it is given two experts, or one."""
        super().check(num_experts)
        used = sum(weight > 0 for weight in self.weights or (1.0,) * num_experts)
        if used not in (1, 2):
            combining.refuse(
                found=f"slerp of {used} experts",
                expected="two: there is no arc between more",
                do="Take model_stock, or an average, for more",
            )

    def _keeps_one(self) -> bool:
        return True

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        del base, beside
        first, second = (trees.flatten(expert) for expert in experts)
        weights = self.weights or (0.5, 0.5)
        share = weights[1] / sum(weights)
        merged = {}
        for name, like in first.items():
            start, end = np.asarray(like), np.asarray(second[name])
            merged[name] = np.zeros_like(start)
            for _, index in layers.units(name, start):
                point = _on_arc(start[index], end[index], share)
                merged[name][index] = point.astype(start.dtype)
            combining.check_finite(name, merged[name])
        return Merged(trees.unflatten(merged))


def _on_arc(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    start, end = start.astype(np.float64), end.astype(np.float64)
    sizes = np.linalg.norm(start) * np.linalg.norm(end)
    cosine = float((start * end).sum() / sizes) if sizes else 1.0
    if abs(cosine) > _PARALLEL:
        return (1 - share) * start + share * end
    angle = np.arccos(cosine)
    first, second = np.sin((1 - share) * angle), np.sin(share * angle)
    return (first * start + second * end) / np.sin(angle)
