"""How the changes that experts make in their base agree and differ, before a merge."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import trees
from elm_jax.merging import aligning, by_layer, combining, growing, layers, singular
from elm_jax.merging.method import Beside
from elm_jax.types import Params

_DIRECTIONS = 8
_MATRICES = 3  # axes of [experts, m, n]


@dataclasses.dataclass(frozen=True)
class LayerComparison:
    """One layer of several experts.

    All arrays but norms are [experts, experts]; NaN says that nothing is defined.

    Attributes:
      name: Of the layer: `encoder/layers_3/mlp/wi/kernel`, or an adapter's place.
      norms: Of what each expert changes, float64 [experts].
      products: Inner products of what they change.
      conflict: Share of numbers that two experts change in opposite directions, each by
        the smaller of the two sizes, in [0, 1]; of LoRAs none, as signs of a product
        are not looked at.
      overlap: Of the first directions of the outputs' side of matrices: the share of
        one's that lies in the other's, in [0, 1].
      pull: How far the mean of the two pulls an expert's outputs on the inputs that it
        was trained on, which its own changes stand for: `|(M - D_i)' D_i|^2`, summed
        over both, as a share of the same with M = 0.
    """

    name: str
    norms: np.ndarray
    products: np.ndarray
    conflict: np.ndarray
    overlap: np.ndarray
    pull: np.ndarray


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several experts, layer by layer.

    Attributes:
      layers: In the order of the parameters.
      in_place: Share of hidden units of bottlenecks that stay where they are when two
        experts are matched, [experts, experts]; NaN without bottlenecks.
      alike: How many to merge: means of the most alike experts.
      drawn: Means of as many experts that are drawn.
    """

    layers: tuple[LayerComparison, ...]
    in_place: np.ndarray
    alike: growing.Growth
    drawn: growing.Growth

    @property
    def cosine(self) -> np.ndarray:
        """Cosines of all that experts change, [experts, experts]."""
        total = np.sum([layer.products for layer in self.layers], axis=0)
        return _over_norms(total, np.sqrt(np.diag(total)))

    @property
    def norms(self) -> np.ndarray:
        """Euclidean norms of all that experts change, [experts]."""
        squares = [np.square(layer.norms) for layer in self.layers]
        return np.sqrt(np.sum(squares, axis=0))

    def mean(self, what: str) -> np.ndarray:
        """Returns the mean over layers of `conflict`, `overlap` or `pull`.

        Each layer counts by the product of the two experts' norms in it.
        """
        return _mean_over(self.layers, what, self.in_place.shape)

    @property
    def forecast(self) -> np.ndarray:
        """What to expect of means of two experts, [experts, experts]; less is better.

        `pull`, weighted by layer: which pairs lose more than others, not how much.
        """
        return self.mean("pull")


def compare(
    experts: Sequence[Params], base: Params, beside: Beside, *, random_seed: int = 0
) -> Comparison:
    """Returns how experts differ; hidden units of bottlenecks are matched before.

    Args:
      experts: Two or more trees of equal names and shapes.
      base: As of `MergeMethod.merge`, for a method that needs it.
      beside: Likewise.
      random_seed: Of the order in which experts are drawn.

    Raises:
      ConfigError: Trees that differ, or experts of which none changes anything.
    """
    flat = [trees.flatten(expert) for expert in experts]
    made = by_layer.of(
        flat, trees.flatten(base), beside, space="core", rank=1, reference=0
    )
    compared = []
    for view in made:
        changes = view.changes()
        if changes.any():
            is_core = view.frames[0] is not None
            compared.append(_compared(view.name, changes, is_core=is_core))
    if not compared:
        combining.refuse(
            found=f"{len(flat)} experts that change nothing in their base",
            expected="one or more that do",
            do="Train them first, or name others",
        )
    in_place = _in_place(flat, beside)
    forecast = _mean_over(compared, "pull", in_place.shape)
    orders = growing.most_alike(forecast), growing.at_random(len(flat), random_seed)
    changed = (view.changes() for view in made)
    matrices = (each for each in changed if each.ndim == _MATRICES and each.any())
    alike, drawn = growing.grown(matrices, orders)
    return Comparison(tuple(compared), in_place, alike, drawn)


def _mean_over(
    layers: Sequence[LayerComparison], what: str, shape: tuple[int, ...]
) -> np.ndarray:
    total = weight = np.zeros(shape)
    for layer in layers:
        values = getattr(layer, what)
        factor = np.outer(layer.norms, layer.norms) * ~np.isnan(values)
        total, weight = total + factor * np.nan_to_num(values), weight + factor
    has_weight = weight > 0
    return np.where(has_weight, total / np.where(has_weight, weight, 1.0), np.nan)


def cosine(layer: LayerComparison) -> np.ndarray:
    """Returns cosines of what experts change in one layer; NaN for no change."""
    return _over_norms(layer.products, layer.norms)


def _compared(name: str, changes: np.ndarray, *, is_core: bool) -> LayerComparison:
    count = len(changes)
    flat = changes.reshape(count, -1)
    products = flat @ flat.T
    nothing = np.full((count, count), np.nan)
    conflict = nothing if is_core else _conflict(flat)
    overlap, pull = nothing, nothing
    if changes.ndim == _MATRICES:
        overlap, pull = _overlap(changes), _pull(changes)
    norms = np.sqrt(np.diag(products))
    return LayerComparison(name, norms, products, conflict, overlap, pull)


def _conflict(flat: np.ndarray) -> np.ndarray:
    """Returns sums of the smaller size where signs differ, as shares of all."""
    sizes, signs = np.abs(flat), np.sign(flat)
    shares = np.empty((len(flat), len(flat)))
    for place in range(len(flat)):
        smaller = np.minimum(sizes, sizes[place])
        differs = (signs * signs[place]) < 0
        total = smaller.sum(axis=1)
        opposite = (smaller * differs).sum(axis=1)
        shares[place] = np.where(total > 0, opposite / np.where(total > 0, total, 1), 0)
    return shares


def _overlap(changes: np.ndarray) -> np.ndarray:
    frames = []
    for matrix in changes:
        _, sizes, right = singular.svd(matrix)
        kept = min(_DIRECTIONS, max(1, singular.rank(sizes)))
        frames.append(right[:kept] if sizes.any() else right[:0])
    overlaps = np.full((len(frames), len(frames)), np.nan)
    for i, first in enumerate(frames):
        for j, second in enumerate(frames):
            if len(first) and len(second):
                count = min(len(first), len(second))
                overlaps[i, j] = np.square(first @ second.T).sum() / count
    return overlaps


def _pull(changes: np.ndarray) -> np.ndarray:
    """Returns `sum |(M - D)' D|^2 / sum |D' D|^2` over two experts, M their mean."""
    pulls = np.full((len(changes), len(changes)), np.nan)
    # |A' B|^2 = <A A', B B'>: of two matrices, the smaller one.
    is_wide = changes.shape[1] < changes.shape[2]
    grams = _outer(changes) if is_wide else _outer(changes.swapaxes(1, 2))
    alone = np.square(grams).sum(axis=(1, 2))
    for i, change in enumerate(changes):
        # (M - D_i)' D_i = (D_j - D_i)' D_i / 2
        if is_wide:
            pulls[i] = (_outer(changes - change) * grams[i]).sum(axis=(1, 2)) / 4
        else:
            crossed = changes.swapaxes(1, 2) @ change
            pulls[i] = np.square((crossed - grams[i]) / 2).sum(axis=(1, 2))
    total = alone[:, None] + alone[None, :]
    return np.where(total > 0, (pulls + pulls.T) / np.where(total > 0, total, 1), 0.0)


def _outer(matrices: np.ndarray) -> np.ndarray:
    """Returns `A A'` of each matrix."""
    return matrices @ matrices.swapaxes(1, 2)


def _in_place(flat: Sequence[Mapping[str, Any]], beside: Beside) -> np.ndarray:
    count = len(flat)
    means = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(i + 1, count):
            shares = [*_shares_in_place(flat[i], flat[j], beside)]
            if shares:
                means[i, j] = means[j, i] = np.mean(shares)
    return means


def _shares_in_place(
    first: Mapping[str, Any], second: Mapping[str, Any], beside: Beside
) -> Iterator[float]:
    for names in aligning.places(beside, is_linear=False).values():
        axes = {name: beside[name].axis for name in names}
        for _, index in layers.units(names[0], np.asarray(first[names[0]])):
            wanted = {name: np.asarray(first[name])[index] for name in names}
            there = {name: np.asarray(second[name])[index] for name in names}
            order = aligning.matching(wanted, there, axes)
            yield float(np.mean(order == np.arange(len(order))))


def _over_norms(products: np.ndarray, norms: np.ndarray) -> np.ndarray:
    size = np.outer(norms, norms)
    return np.where(size > 0, products / np.where(size > 0, size, 1.0), np.nan)
