"""Other weights for some parameters: by layer, or by any pattern of names."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from elm_jax import fields, trees
from elm_jax.merging import averages, combining, layers
from elm_jax.merging.method import Beside, Merged, MergeMethod, Unit
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByName(MergeMethod):
    """A method with other weights for parameters whose names fit a pattern.

    A parameter of a stack of layers is looked at a layer at a time, and the layer is in
    its name: `encoder/layers_3/mlp/wi_0/kernel`. The first pattern that is found in the
    name decides; where none is, the method has its own weights. Sums of adapters
    cannot have weights by name, as their layers would not be equally wide.

    Attributes:
      method: How experts are merged; one that takes weights, and parts of experts.
      weights_of: One weight for each expert, by regular expression.
    """

    name: ClassVar[str] = "by_name"
    reference: ClassVar[str] = (
        "Yang et al. 2024, arXiv:2310.02575, layer-wise coefficients"
    )
    method: MergeMethod = averages.Weighted()
    weights_of: Mapping[str, tuple[fields.Finite, ...]] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        """Raises ConfigError for a pattern, or for a method that cannot be."""
        super().__post_init__()
        for pattern, weights in self.weights_of.items():
            try:
                re.compile(pattern)
            except re.error as error:
                combining.refuse(
                    found=f"the pattern {pattern!r} of names, which is none: {error}",
                    expected="a regular expression, such as 'decoder/|layers_[0-5]/'",
                    do="Correct it",
                )
            self.method.with_weights(weights)
        if self.method.unit == "expert" or self.method.needs_statistics:
            combining.refuse(
                found=f"weights by name for {self.method.name}, which merges experts"
                " as a whole",
                expected="a method that merges each parameter by itself",
                do="Take weighted, task_arithmetic or ties",
            )

    def __hash__(self) -> int:
        """Returns a hash of all options."""
        return hash((self.method, tuple(self.weights_of.items())))

    def __eq__(self, other: object) -> bool:
        """Returns whether all options are equal, and the order of the patterns."""
        return (
            isinstance(other, ByName)
            and self.method == other.method
            and [*self.weights_of.items()] == [*other.weights_of.items()]
        )

    @property
    def needs_base(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - of the class in other methods
        """Whether its method needs the base."""
        return self.method.needs_base

    @property
    def knows_adapters(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - likewise
        """As its method, which would else merge adapters without being told of them."""
        return self.method.knows_adapters

    @property
    def shows_not_finite(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - likewise
        """As its method, to which experts come in another order."""
        return self.method.shows_not_finite

    @property
    def unit(self) -> Unit:
        """A layer, since that may have weights of its own."""
        return "tensor"

    def check(self, num_experts: int) -> None:
        """Raises ConfigError unless all weights are for this many experts."""
        self.method.check(num_experts)
        for weights in self.weights_of.values():
            self.method.with_weights(weights).check(num_experts)

    def recipe(self) -> dict[str, Any]:
        """Returns names and options as JSON values."""
        # Their order decides, which neither sorted JSON nor `==` of mappings keeps.
        weights_of = [[name, list(values)] for name, values in self.weights_of.items()]
        return {
            "method": self.name,
            "of": self.method.recipe(),
            "weights_of": weights_of,
        }

    def check_names(self, names: Iterable[str], num_layers: Mapping[str, int]) -> None:
        """Raises ConfigError for a pattern that decides for no name.

        Args:
          names: Of all parameters.
          num_layers: Of those that are stacks, by name.
        """
        every = [
            unit
            for name in names
            for unit, _ in layers.units(name, np.empty((num_layers.get(name, 0), 0)))
        ]
        for pattern in self.weights_of:
            if not any(map(re.compile(pattern).search, every)):
                combining.refuse(
                    found=f"the pattern {pattern!r}, which is in no parameter's name",
                    expected=f"one that is in a name such as {every[0]}",
                    do="Correct it; layers are `layers_0`, `layers_1` and so on",
                )
        deciding = {
            next((p for p in self.weights_of if re.search(p, unit)), None)
            for unit in every
        }
        for pattern in self.weights_of:
            if pattern not in deciding:
                combining.refuse(
                    found=f"the pattern {pattern!r} behind others, which decide for"
                    " every name that it is in",
                    expected="patterns that each decide for some name: the first that"
                    " is in a name does",
                    do="Put the narrower pattern first, or leave it out",
                )

    def _for_experts(self, places: Sequence[int]) -> Self:
        def chosen(weights: Sequence[float]) -> tuple[float, ...]:
            return tuple(weights[place] for place in places)

        method, old_weights = self.method, getattr(self.method, "weights", ())
        if old_weights:
            method = method.with_weights(chosen(old_weights))
        weights_of = {name: chosen(values) for name, values in self.weights_of.items()}
        return dataclasses.replace(self, method=method, weights_of=weights_of)

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        if beside:
            combining.refuse(
                found=f"weights by name for {self.method.name} of adapters",
                expected="whole models, or an average of adapters",
                do="Take weighted as the method, or one weight for each expert",
            )
        flat = [trees.flatten(expert) for expert in experts]
        start = None if base is None else trees.flatten(base)
        # They are in their order by now; the method is to keep it.
        marks = [f"{place:09}" for place in range(len(flat))]
        merged = {}
        for name, like in flat[0].items():
            merged_leaf = np.empty(like.shape, like.dtype)
            for unit, place in layers.units(name, like):
                merged_leaf[place] = trees.flatten(
                    self._of(unit)
                    .merge(
                        [
                            trees.unflatten({unit: expert[name][place]})
                            for expert in flat
                        ],
                        base=start and trees.unflatten({unit: start[name][place]}),
                        marks=marks,
                    )
                    .params
                )[unit]
            merged[name] = merged_leaf
        return Merged(trees.unflatten(merged))

    def _of(self, name: str) -> MergeMethod:
        for pattern, weights in self.weights_of.items():
            if re.search(pattern, name):
                return self.method.with_weights(weights)
        return self.method
