"""What a kind of adapters is: one class in one file says all there is to know of it.

A kind is a frozen dataclass with `AdapterKind` as its base and
`adapters.register` above it, in any module that a gin file or a program imports:

    @adapters.register
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Scale(kind.AdapterKind):
        kind: str = "scale"
        axes = {"scale": ("outputs",)}
        neutral = {"scale": 1.0}

        def adapter_fn(self, emb_dim):
            return self

        def __call__(self, point, *, name):
            return ScaleModule(name=name) if point.endswith("/mlp") else None

From then on it trains (`train.Train.adapter = @my_module.Scale()`), is saved by its
fields, loaded by its name, scored, split over devices, averaged, and whatever of the
rest it defines. Its cost is estimated from the shapes of its parameters
(`model/cost.py`).
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from elm_jax import errors, types


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterKind(abc.ABC):
    """Where adapters of a kind go and what they are.

    Attributes:
      kind: The kind's name, in manifests too; a field of the dataclass, with the name
        as its default.

    Variables of the class:
      axes: Logical axes of each parameter, by its name below `..._adapter/`:
        `inputs` and `outputs` of what is adapted, and `adapter`, the adapter's own
        width. Of two kinds parameters of one name have one meaning.
      beside: Parameters that a sum of experts' effects puts beside each other: the
        axis, and whether an expert's factor belongs there (see `effects`).
      neutral: The value of the others with which an adapter adds nothing; a sum adds
        their distances from it. A kind with parameters in neither is averaged only.
      is_linear: Whether an adapter is nothing but the product of the two matrices in
        `beside`, up to a factor of its spec, so that products can be merged.
    """

    kind: str
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    beside: ClassVar[Mapping[str, tuple[int, bool]]] = {}
    neutral: ClassVar[Mapping[str, float]] = {}
    is_linear: ClassVar[bool] = False

    @abc.abstractmethod
    def adapter_fn(self, emb_dim: int) -> types.AdapterFn:
        """Returns what the model asks for the adapter of each insertion point.

        Often the spec itself, with `__call__(point, *, name)`, which gives a flax
        module, or None where none belongs.

        Args:
          emb_dim: Model width.

        Raises:
          ConfigError: Such adapters do not fit the width.
        """

    def repeated(self, times: int) -> "AdapterKind":
        """Returns the spec of so many adapters beside each other, `times` > 1.

        It is itself where nothing is put beside (`beside` is empty).
        """
        del times
        return self

    def of_rank(self, rank: int) -> "AdapterKind":
        """Returns the spec of such adapters with another inner width, scaled alike.

        Raises:
          ConfigError: The kind has no widths to choose from.
        """
        raise errors.ConfigError(
            found=f"adapters of kind {self.kind!r} for a rank of {rank}",
            expected="lora, or another kind that defines `of_rank`",
            do="Leave the rank out",
        )

    def fold(
        self, path: str, parts: Mapping[str, np.ndarray], kernels: dict[str, Any]
    ) -> None:
        """Changes the base's matrices so that they do what an adapter did.

        Args:
          path: The adapted projection, such as `encoder/layers/mlp/wo`.
          parts: The adapter's parameters, layers stacked, by their names below
            `..._adapter/`.
          kernels: All parameters of the base by name; changed.

        Raises:
          ConfigError: The adapters are no linear functions of what they adapt.
        """
        del path, parts, kernels
        raise self._no_fold()

    def check_can_fold(self) -> None:
        """Raises ConfigError unless the kind defines `fold`."""
        if type(self).fold is AdapterKind.fold:
            raise self._no_fold()

    def _no_fold(self) -> errors.ConfigError:
        return errors.ConfigError(
            found=f"adapters of kind {self.kind!r}",
            expected="lora, ia3 or another kind that defines `fold`: others are not"
            " part of a matrix",
            do="Use the expert as it is, with its base",
        )
