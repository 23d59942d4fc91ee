"""How the changes that experts make in their base agree and differ, before a merge."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import trees
from elm_jax.merging import (
    aligning,
    by_layer,
    combining,
    growing,
    layers,
    singular,
    views,
)
from elm_jax.merging.method import Beside
from elm_jax.types import LAYERS, Params

_DIRECTIONS = 8
_AT_ONCE = 1 << 20  # numbers, of all experts, whose signs are compared
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

    def mean(self, measure: str) -> np.ndarray:
        """Returns the mean over layers of `conflict`, `overlap` or `pull`.

        Each layer counts by the product of the two experts' norms in it.
        """
        return _mean_over(self.layers, measure, self.in_place.shape)

    @property
    def forecast(self) -> np.ndarray:
        """What to expect of means of two experts, [experts, experts]; less is better.

        `pull`, weighted by layer: which pairs lose more than others, not how much.
        """
        return self.mean("pull")


class Part(NamedTuple):
    """Parameters of experts that can be compared by themselves.

    Attributes:
      experts: Two or more trees of equal names and shapes.
      base: What the experts started from, without the leaves in `beside`.
      beside: Leaves of adapters, and how each lies beside those of other experts.
    """

    experts: Sequence[Params]
    base: Params
    beside: Beside


def compare(
    experts: Sequence[Params], base: Params, beside: Beside, *, random_seed: int = 0
) -> Comparison:
    """Returns how experts differ; hidden units of bottlenecks are matched before.

    Args:
      experts: Two or more trees of equal names and shapes.
      base: What the experts started from, without the leaves in `beside`.
      beside: Leaves of adapters, and how each lies beside those of other experts.
      random_seed: Of the order in which experts are drawn.

    Raises:
      ConfigError: Trees that differ, or experts of which none changes anything.
    """
    whole = Part(experts, base, beside)
    return compare_parts(lambda: [whole], len(experts), random_seed=random_seed)


def compare_parts(
    parts: Callable[[], Iterable[Part]], count: int, *, random_seed: int = 0
) -> Comparison:
    """Returns what `compare` does, with a part of the experts in memory at a time.

    Args:
      parts: Returns them all, in any order; it is called twice. A part has all
        parameters in `beside` of an adapter, at least in one layer, of which the
        names then tell: `encoder/layers_3/mlp/wi/kernel`.
      count: Of the experts.
      random_seed: Of the order in which experts are drawn.

    Raises:
      ConfigError: Trees that differ, or experts of which none changes anything.
    """
    compared: dict[tuple[bool, str, int], LayerComparison] = {}
    in_place, num_places = np.zeros((count, count)), 0
    for part in parts():
        for view, changes in _changes(part):
            is_core = view.frames[0] is not None
            layer = _compared(view.name, changes, is_core=is_core)
            compared[is_core, *_without_number(view.name)] = layer
        for shares in _in_place(part):
            in_place, num_places = in_place + shares, num_places + 1
    if not compared:
        combining.refuse(
            found=f"{count} experts that change nothing in their base",
            expected="one or more that do",
            do="Train them first, or name others",
        )
    in_order = tuple(compared[key] for key in sorted(compared))
    forecast = _mean_over(in_order, "pull", in_place.shape)
    orders = growing.most_alike(forecast), growing.at_random(count, random_seed)
    every = (changes for part in parts() for _, changes in _changes(part))
    matrices = (changes for changes in every if changes.ndim == _MATRICES)
    alike, drawn = growing.grown(matrices, orders)
    shares = in_place / num_places if num_places else np.full(in_place.shape, np.nan)
    np.fill_diagonal(shares, np.nan)
    return Comparison(in_order, shares, alike, drawn)


def _changes(part: Part) -> Iterator[tuple[views.View, np.ndarray]]:
    """Yields the layers of a part in which an expert changes anything."""
    flat = [trees.flatten(expert) for expert in part.experts]
    base = trees.flatten(part.base)
    every = by_layer.of(flat, base, part.beside, space="core", rank=1, reference=0)
    for view in every:
        changes = view.changes()
        if changes.any():
            yield view, changes
        del changes  # before the next one's are made


def _without_number(name: str) -> tuple[str, int]:
    """Returns the name of a layer's stack, and the layer's number in it; else 0.

    >>> _without_number("encoder/layers_3/mlp/wi/kernel")
    ('encoder/layers/mlp/wi/kernel', 3)
    """
    head, stacked, tail = name.partition(f"/{LAYERS}_")
    number, _, rest = tail.partition("/")
    return (f"{head}/{LAYERS}/{rest}", int(number)) if stacked else (name, 0)


def _mean_over(
    layers: Sequence[LayerComparison], measure: str, shape: tuple[int, ...]
) -> np.ndarray:
    total = weight = np.zeros(shape)
    for layer in layers:
        values = getattr(layer, measure)
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
    undefined = np.full((count, count), np.nan)
    conflict = undefined if is_core else _conflict(flat)
    overlap, pull = undefined, undefined
    if changes.ndim == _MATRICES:
        overlap, pull = _overlap(changes), _pull(changes)
    norms = np.sqrt(np.diag(products))
    return LayerComparison(name, norms, products, conflict, overlap, pull)


def _conflict(flat: np.ndarray) -> np.ndarray:
    """Returns sums of the smaller size where signs differ, as shares of all."""
    total, opposite = np.zeros((2, len(flat), len(flat)))
    at_once = max(1, _AT_ONCE // len(flat))
    for start in range(0, flat.shape[1], at_once):
        some = flat[:, start : start + at_once]
        sizes, signs = np.abs(some), np.sign(some)
        for place in range(len(flat)):
            smaller = np.minimum(sizes, sizes[place])
            total[place] += smaller.sum(axis=1)
            smaller *= (signs * signs[place]) < 0
            opposite[place] += smaller.sum(axis=1)
    return np.where(total > 0, opposite / np.where(total > 0, total, 1), 0)


def _overlap(changes: np.ndarray) -> np.ndarray:
    frames = []
    for matrix in changes:
        _, sizes, right = singular.svd(matrix)
        num_kept = min(_DIRECTIONS, max(1, singular.rank(sizes)))
        frames.append(right[:num_kept] if sizes.any() else right[:0])
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
            for j, other in enumerate(changes):
                gap = other - change
                pulls[i, j] = ((gap @ gap.T) * grams[i]).sum() / 4
        else:
            crossed = changes.swapaxes(1, 2) @ change
            pulls[i] = np.square((crossed - grams[i]) / 2).sum(axis=(1, 2))
    total = alone[:, None] + alone[None, :]
    return np.where(total > 0, (pulls + pulls.T) / np.where(total > 0, total, 1), 0.0)


def _outer(matrices: np.ndarray) -> np.ndarray:
    """Returns `A A'` of each matrix."""
    return matrices @ matrices.swapaxes(1, 2)


def _in_place(part: Part) -> Iterator[np.ndarray]:
    """Yields shares of units that stay in place, of each bottleneck in each layer."""
    flat = [trees.flatten(expert) for expert in part.experts]
    for names in aligning.places(part.beside, is_linear=False).values():
        axes = {name: part.beside[name].axis for name in names}
        for _, index in layers.units(names[0], np.asarray(flat[0][names[0]])):
            units = [
                {n: np.asarray(leaves[n])[index] for n in names} for leaves in flat
            ]
            shares = np.zeros((len(flat), len(flat)))
            for i, j in itertools.combinations(range(len(flat)), 2):
                order = aligning.matching(units[i], units[j], axes)
                shares[i, j] = shares[j, i] = np.mean(order == np.arange(len(order)))
            yield shares


def _over_norms(products: np.ndarray, norms: np.ndarray) -> np.ndarray:
    size = np.outer(norms, norms)
    return np.where(size > 0, products / np.where(size > 0, size, 1.0), np.nan)
