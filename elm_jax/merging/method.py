"""What a merge method is: a frozen dataclass that makes one expert of several."""

import abc
import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from elm_jax import errors, fields
from elm_jax.merging import combining
from elm_jax.types import Params

Beside = Mapping[str, tuple[int, bool]]
"""By a leaf's name: the axis along which experts' leaves are put beside each other, and
whether an expert's factor belongs there."""
NOTHING: Beside = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Merged:
    """An expert that a method made.

    Attributes:
      params: NumPy arrays in the dtypes of the experts.
      num_beside: How many experts' adapters lie beside each other in it: so many times
        as wide they are.
    """

    params: dict[str, Any]
    num_beside: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeMethod(abc.ABC):
    """A way to make one expert of several, with its options as fields.

    Laws, kept bit for bit by every method: the order of the experts (with their
    weights) does not matter, and weights [1, 0, 0] give the first. A method says which
    further laws it keeps.

    A subclass is used by its value, also one from outside of this package; what has a
    line in `methods.METHODS` can be named by its name alone.
    """

    name: ClassVar[str]
    """What manifests and users call it."""
    reference: ClassVar[str]
    """Where it was proposed."""
    needs_base: ClassVar[bool] = False
    """Whether it starts from the base."""

    def __post_init__(self) -> None:
        """Raises ConfigError for an option that it cannot have."""
        fields.check(self)

    @classmethod
    def takes_weights(cls) -> bool:
        """Returns whether each expert may have a weight."""
        return any(field.name == "weights" for field in dataclasses.fields(cls))

    def check(self, num_experts: int) -> None:
        """Raises ConfigError unless the options are for so many experts."""
        weights: Sequence[float] = getattr(self, "weights", ())
        if num_experts < 1:
            combining.refuse(
                found="no experts",
                expected="one or more experts",
                do="Name the experts to merge",
            )
        if weights and len(weights) != num_experts:
            combining.refuse(
                found=f"weights {list(weights)} for {num_experts} experts",
                expected="one finite weight per expert",
                do="Give as many numbers as experts",
            )

    def with_weights(self, weights: Sequence[float]) -> "MergeMethod":
        """Returns the same method with a weight for each expert.

        Raises:
          ConfigError: It takes none, or not these.
        """
        if not self.takes_weights():
            raise errors.ConfigError(
                found=f"weights for {self.name}",
                expected="a method that takes weights",
                do="Leave the weights out, or use weighted",
            )
        return dataclasses.replace(self, **{"weights": tuple(map(float, weights))})

    def recipe(self) -> dict[str, Any]:
        """Returns its name and options as JSON values."""
        return {"method": self.name, **dataclasses.asdict(self)}

    def merge(
        self,
        experts: Sequence[Params],
        *,
        base: Params | None = None,
        beside: Beside = NOTHING,
    ) -> Merged:
        """Returns the expert that it makes of experts.

        Args:
          experts: One or more trees with equal names, shapes and floating dtypes.
          base: What the experts started from, with exactly their leaves but for those
            in `beside`; for a method that needs it, and only for one.
          beside: Leaves of adapters, of which the base has none.

        Raises:
          ConfigError: Trees that differ, options that are not for so many experts, or
            a result that is not finite.
        """
        self.check(len(experts))
        if self.needs_base != (base is not None):
            combining.refuse(
                found=f"{self.name} {'without' if self.needs_base else 'with'} a base",
                expected=f"{'a' if self.needs_base else 'no'} base for this method",
                do="Give a base to methods that need it, and only to them",
            )
        combining.check_alike(experts)
        return self._merge(experts, base, beside)

    @abc.abstractmethod
    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        """Returns the merged expert; the arguments are checked, as `merge` has them."""
