"""A control of merges and choices: noise in place of what an expert has learnt."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from elm_jax import fields, trees
from elm_jax.merging import combining
from elm_jax.merging.method import Beside, Merged, MergeMethod
from elm_jax.types import LAYERS, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise(MergeMethod):
    """The base and Gaussian noise as great as what one expert changes.

    In every tensor, and in every layer of it, the noise has the Euclidean norm of the
    expert's difference from the base; of adapters, of its difference from an adapter
    that adds nothing, or of the adapter itself where there is no such value (the
    matrices of LoRAs and bottlenecks). What such an expert scores, more parameters and
    their size alone score. It keeps none of the laws of merges but their order's.

    Attributes:
      random_seed: Of the noise; that of a tensor depends on it and the tensor's name.
    """

    name: ClassVar[str] = "noise"
    reference: ClassVar[str] = (
        "Hewitt and Liang 2019, arXiv:1909.03368 (controls that cannot have learnt)"
    )
    needs_base: ClassVar[bool] = True
    random_seed: fields.Seed = 0

    def check(self, num_experts: int) -> None:
        """Raises ConfigError unless it is given one expert."""
        super().check(num_experts)
        if num_experts > 1:
            combining.refuse(
                found=f"{num_experts} experts",
                expected="one, whose shapes and norms the noise gets",
                do="Name one expert, or merge several first",
            )

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        del beside
        assert base is not None  # noqa: S101 - `merge` has looked
        start = trees.flatten(base)
        merged = {}
        for name, leaf in trees.flatten(experts[0]).items():
            merged[name] = self._like(name, np.asarray(leaf), start.get(name))
            combining.check_finite(name, merged[name])
        return Merged(trees.unflatten(merged))

    def _like(self, name: str, leaf: np.ndarray, start: Params | None) -> np.ndarray:
        origin = 0.0 if start is None else np.asarray(start).astype(np.float64)
        change = leaf.astype(np.float64) - origin
        rng = np.random.default_rng([self.random_seed, zlib.crc32(name.encode())])
        noise = rng.standard_normal(leaf.shape)
        is_stack = f"/{LAYERS}/" in name
        axes = tuple(range(1 if is_stack else 0, leaf.ndim))
        change_norms, noise_norms = (
            np.sqrt(np.square(array).sum(axis=axes, keepdims=True))
            for array in (change, noise)
        )
        scale = np.divide(
            change_norms,
            noise_norms,
            out=np.zeros_like(change_norms),
            where=noise_norms > 0,
        )
        with np.errstate(over="ignore"):  # reported by name by the caller
            return (origin + noise * scale).astype(leaf.dtype).reshape(leaf.shape)
