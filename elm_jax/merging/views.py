"""Experts as what they change, a layer at a time, and the way back.

What a layer of an expert changes is an array: the distance of its parameters from the
base's, or, of a LoRA, the product of its two matrices.

| parameters | what they change | base |
|---|---|---|
| all parameters, norms | the parameter's difference | the base's parameter |
| (IA)3 | the same | 1, with which it changes nothing |
| bottlenecks: D, b, U, c | the parameters, their units matched | 0 |
| LoRA | the product A B, without the factor alpha / rank | 0 |

The inner side of a bottleneck, D and b, says what its units look for, not how much they
add. It is therefore averaged, with the sizes of the weights, and weights and a scale as
factors are for U and c alone: with equal D the effects are then summed exactly.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from elm_jax.merging import core, products, singular, stacks, threads

Space = Literal["parameters", "core", "knots"]
Half = Literal["", "first", "second"]
"""Which of the two matrices of a LoRA, where these are merged apart."""
# Of the greatest singular value; the paper cuts at 1e-4, whatever the greatest is.
_KNOTS_CUT = 1e-4
# Numbers of all experts from which on parts of V are float32, which takes half the
# time and memory: experts are float32 themselves. They differ by 1e-6 of the greatest.
_MANY = 1 << 22
_WIDE = 1 << 8  # columns from which on finding S and U takes long
_AT_ONCE = 1 << 21  # of these, that are multiplied at once
Leaves = Mapping[str, np.ndarray]


class View(abc.ABC):
    """One layer of several experts.

    Attributes:
      name: Of the layer: `encoder/layers_3/mlp/wi/kernel`, or an adapter's place.
      is_inner: Whether it is an inner side of bottlenecks.
      half: Whether it is one of the two matrices of LoRAs; "" for neither.
      facts: What the way back has told, by name.
    """

    def __init__(self, name: str, *, is_inner: bool = False, half: Half = "") -> None:
        self.name = name
        self.is_inner = is_inner
        self.half: Half = half
        self.facts: dict[str, float] = {}

    @abc.abstractmethod
    def changes(self) -> np.ndarray:
        """Returns what each expert changes: float64 [experts, ...].

        Whoever asks may write into it, and then asks no more.
        """

    def stack(self) -> stacks.Stack:
        """Returns the same; products of narrow matrices are not made before use."""
        return stacks.Arrays(self.changes())

    def change_of(self, place: int) -> np.ndarray:
        """Returns what one expert changes, [...], in any dtype; it is read only."""
        return self.stack().change_of(place)

    @abc.abstractmethod
    def put(self, change: np.ndarray) -> None:
        """Writes what the merged expert changes, [...], into the result."""

    @abc.abstractmethod
    def put_product(self, left: np.ndarray, right: np.ndarray) -> None:
        """Writes what it changes, as a product.

        Args:
          left: [m, k], of the rows that the parameters have themselves.
          right: [k, n], of the columns that `changes` has.
        """

    @property
    def frames(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Orthonormal columns, and rows, in which changes are written; or None."""
        return None, None


class LeafView(View):
    """One layer of one parameter."""

    def __init__(
        self,
        name: str,
        layer: Sequence[np.ndarray],
        origin: np.ndarray | None,
        out: np.ndarray,
        *,
        is_inner: bool = False,
        half: Half = "",
    ) -> None:
        """Takes one layer of each expert, of the base, if it has it, and a place."""
        super().__init__(name, is_inner=is_inner, half=half)
        self._layer, self._out, self._has_base = layer, out, origin is not None
        self._origin = np.zeros(()) if origin is None else origin.astype(np.float64)

    def changes(self) -> np.ndarray:
        """Returns distances from the base."""
        distances = np.empty((len(self._layer), *self._layer[0].shape))

        def write(place: int) -> None:
            distances[place] = self.change_of(place)

        threads.each(write, range(len(distances)), numbers=distances.size)
        return distances

    def change_of(self, place: int) -> np.ndarray:
        """Returns the distance of one expert from the base."""
        layer = self._layer[place]
        return layer.astype(np.float64) - self._origin if self._has_base else layer

    def put(self, change: np.ndarray) -> None:
        """Writes the base with the change."""
        first_layer = self._layer[0].astype(np.float64)
        with np.errstate(over="ignore"):  # reported by name, once, at the end
            value = self._origin + change
            # What changes nothing is the base, and what changes the same is the first
            # expert: without an addition, which would round.
            value = np.where(change == first_layer - self._origin, first_layer, value)
            value = np.where(change == 0, self._origin, value)
            self._out[...] = value.astype(self._out.dtype)

    def put_product(self, left: np.ndarray, right: np.ndarray) -> None:
        """Writes the base with the product."""
        self.put(left @ right)


@dataclasses.dataclass(frozen=True)
class Factors:
    """The two matrices of one layer of LoRAs, and where the merged ones go.

    Attributes:
      lefts: A of each expert, [m, rank].
      rights: B of each expert, [rank, n].
      left: [m, new rank], to be written.
      right: [new rank, n], to be written.
    """

    lefts: Sequence[np.ndarray]
    rights: Sequence[np.ndarray]
    left: np.ndarray
    right: np.ndarray


class ProductView(View):
    """One layer of LoRAs, as cores of their products."""

    def __init__(self, name: str, factors: Factors) -> None:
        """Takes the matrices of each expert, and places for those of the result."""
        super().__init__(name)
        self._factors = factors
        self._core: core.Core | None = None

    @property
    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """The columns that all A span, and the rows that all B span."""
        whole_core = self._make_core()
        return whole_core.left, whole_core.right

    def changes(self) -> np.ndarray:
        """Returns cores; raises ConfigError if they take too much memory."""
        return self._make_core().matrices.some(...)

    def stack(self) -> products.Products:
        """Returns cores that are made when somebody asks for them."""
        return self._make_core().matrices

    def put(self, change: np.ndarray) -> None:
        """Writes two matrices of the result's rank."""
        self._put(*self.frames, change)

    def put_product(self, left: np.ndarray, right: np.ndarray) -> None:
        """Writes two matrices of the result's rank."""
        outer, inner = np.linalg.qr(left)
        self._put(outer, self.frames[1], inner @ right)

    def _put(self, left: np.ndarray, right: np.ndarray, change: np.ndarray) -> None:
        a, b, discarded = core.cut(change, self._factors.left.shape[1])
        with np.errstate(over="ignore"):  # reported by name, once, at the end
            self._factors.left[...] = (left @ a).astype(self._factors.left.dtype)
            self._factors.right[...] = (b @ right).astype(self._factors.right.dtype)
        self.facts["discarded_energy"] = discarded

    def _make_core(self) -> core.Core:
        if self._core is None:
            lefts, rights = (
                np.stack([factor.astype(np.float64) for factor in sides])
                for sides in (self._factors.lefts, self._factors.rights)
            )
            self._core = core.of(lefts, rights)
        return self._core


class KnotsView(View):
    """One layer of matrices, each by its own part of vectors that all share.

    The changes below each other are `V S U`; the part of V that belongs to an expert
    is what is merged, and `(merged V) S U` is what the result changes.

    Attributes:
      takes_long: Whether S and U are still being found for a while.
    """

    def __init__(self, inner: View, matrices: np.ndarray) -> None:
        """Takes a layer and what experts change there, [experts, p, q]."""
        super().__init__(inner.name, is_inner=inner.is_inner)
        self._inner, self._shape = inner, matrices.shape
        below = matrices.reshape(-1, matrices.shape[2])
        is_long = len(below) >= singular.LONG * below.shape[1]
        is_large = is_long and below.size >= _MANY
        self.takes_long = is_large and below.shape[1] >= _WIDE
        self._begun = singular.right_svd_begun(below) if is_large else None
        self._shared = np.zeros(0)  # S U, once it is known

    def changes(self) -> np.ndarray:
        """Returns the experts' parts of V, [experts, m, k]; large ones as float32."""
        count, rows, columns = self._shape
        if self._begun is None:
            below = self._inner.changes().reshape(-1, columns)
            left, sizes, right = singular.svd(below)
        else:
            left, (sizes, right) = None, self._begun.result()
        num_kept = int((sizes > _KNOTS_CUT * sizes[:1]).sum())
        sizes, right = sizes[:num_kept, None], right[:num_kept]
        self._shared = sizes * right
        if left is None:
            parts = self._multiplied((right / sizes).T.astype(np.float32))
        else:
            parts = left[:, :num_kept].reshape(count, rows, num_kept)
        frame, _ = self._inner.frames
        return parts if frame is None else frame @ parts

    def _multiplied(self, inverse: np.ndarray) -> np.ndarray:
        """Returns what experts change times a matrix [q, k], of a few at a time."""
        count, rows, columns = self._shape
        parts = np.empty((count, rows, inverse.shape[1]), np.float32)
        at_once = max(1, _AT_ONCE // (rows * columns))

        def multiply(start: int) -> None:
            some = parts[start : start + at_once]
            matrices = np.empty((len(some), rows, columns), np.float32)
            for number in range(len(some)):
                matrices[number] = self._inner.change_of(start + number)
            below = matrices.reshape(-1, columns)
            np.matmul(below, inverse, out=some.reshape(-1, inverse.shape[1]))

        starts, numbers = range(0, count, at_once), math.prod(self._shape)
        threads.each(multiply, starts, numbers=numbers, few=2)
        return parts

    def put(self, change: np.ndarray) -> None:
        """Writes what a merged V [m, k] stands for."""
        self.put_product(change, self._shared)

    def put_product(self, left: np.ndarray, right: np.ndarray) -> None:
        """Writes a product."""
        self._inner.put_product(left, right)
        self.facts |= self._inner.facts
