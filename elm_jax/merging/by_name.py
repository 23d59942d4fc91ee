"""Other weights for some parameters: by layer, or by any pattern of names."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from elm_jax import fields, trees
from elm_jax.merging import aligning, averages, combining, deltas, layers
from elm_jax.merging.method import (
    NOTHING,
    Beside,
    Layout,
    Merged,
    MergeMethod,
    Unit,
)
from elm_jax.types import Params, Side


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByName(MergeMethod):
    """A method with other weights for parameters whose names fit a pattern.

    A parameter of a stack of layers is looked at a layer at a time, and the layer is in
    its name: `encoder/layers_3/mlp/wi_0/kernel`. The first pattern that is found in the
    name decides; where none is, the method has its own weights. All parameters of an
    adapter need the same weights, if the method merges what adapters do.

    Where adapters are put beside each other, the merged adapters of layers that have
    fewer experts, as the others' weights are 0 there, are filled up with units, or
    ranks, that add nothing.

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
    def on_effects(self) -> bool:
        """As its method."""
        return self.method.on_effects

    @property
    def unit(self) -> Unit:
        """A layer, since that may have weights of its own; of adapters all of it."""
        return "place" if self.needs_base or self.knows_adapters else "tensor"

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

    def check_names(
        self,
        names: Collection[str],
        num_layers: Mapping[str, int],
        beside: Beside = NOTHING,
    ) -> None:
        """Raises ConfigError for a pattern that decides for no name or half an adapter.

        Args:
          names: Of all parameters.
          num_layers: Of those that are stacks, by name.
          beside: Those of adapters that the method merges as such.
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
        self._check_adapters({n: num_layers.get(n, 0) for n in names}, beside)
        deciding = {self._pattern_of(unit) for unit in every}
        for pattern in self.weights_of:
            if pattern not in deciding:
                combining.refuse(
                    found=f"the pattern {pattern!r} behind others, which decide for"
                    " every name that it is in",
                    expected="patterns that each decide for some name: the first that"
                    " is in a name does",
                    do="Put the narrower pattern first, or leave it out",
                )

    def weighted(self, num_experts: int) -> list[int]:
        """Returns places of experts that have a weight somewhere, or the first."""
        every = [self.method, *map(self.method.with_weights, self.weights_of.values())]
        places = {place for each in every for place in each.weighted(num_experts)}
        return sorted(places)

    def _for_experts(self, places: Sequence[int]) -> Self:
        def chosen(weights: Sequence[float]) -> tuple[float, ...]:
            return tuple(weights[place] for place in places)

        method, old_weights = self.method, getattr(self.method, "weights", ())
        if old_weights:
            method = method.with_weights(chosen(old_weights))
        weights_of = {name: chosen(values) for name, values in self.weights_of.items()}
        return dataclasses.replace(self, method=method, weights_of=weights_of)

    def _layout(self, num_experts: int, rank: int) -> Layout:
        """Returns room for all experts in each layer, whatever their weights are."""
        method = self.method
        if method.takes_weights():
            method = method.with_weights((1.0,) * num_experts)
        return method.layout(num_experts, rank)

    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        flat = [trees.flatten(expert) for expert in experts]
        start = None if base is None else trees.flatten(base)
        layout = self._layout(len(flat), deltas.rank_of(flat[0], beside))
        merged = {
            name: np.zeros(
                layers.widened(like.shape, beside.get(name), layout), like.dtype
            )
            for name, like in flat[0].items()
        }
        # They are in their order by now; the method is to keep it.
        marks = [f"{number:09}" for number in range(len(flat))]
        facts: dict[str, float] = {}
        num_layers = {name: len(like) for name, like in flat[0].items() if like.ndim}
        self._check_adapters(num_layers, beside)
        for layer in _layers(flat[0], beside):
            part = self._of(layer).merge(
                [layer.of(leaves) for leaves in flat],
                base=start and layer.of(start),
                beside=layer.sides,
                marks=marks,
            )
            facts |= part.facts
            merged_layer = trees.flatten(part.params)
            for name, (unit, index) in layer.parts.items():
                _put(merged[name][index], merged_layer[unit], layer.sides.get(unit))
        params = trees.unflatten(merged)
        return Merged(params, layout.num_beside, layout.rank, facts)

    def _of(self, layer: "_Layer") -> MergeMethod:
        unit, _ = next(iter(layer.parts.values()))
        pattern = self._pattern_of(unit)
        if pattern is None:
            return self.method
        return self.method.with_weights(self.weights_of[pattern])

    def _pattern_of(self, unit: str) -> str | None:
        return next((p for p in self.weights_of if re.search(p, unit)), None)

    def _check_adapters(self, num_layers: Mapping[str, int], beside: Beside) -> None:
        """Raises ConfigError if parameters of an adapter have different weights.

        Args:
          num_layers: Of all parameters by name; of those that are no stacks, any.
          beside: Those of adapters that the method merges as such.
        """
        for place in sorted({side.place for side in beside.values()}):
            names = [name for name in num_layers if name.startswith(f"{place}/")]
            stacks = (np.empty((num_layers[name], 0)) for name in names)
            for layer in zip(*map(layers.units, names, stacks), strict=True):
                units = [unit for unit, _ in layer]
                patterns = [self._pattern_of(unit) for unit in units]
                for unit, pattern in zip(units, patterns, strict=True):
                    if pattern != patterns[0]:
                        combining.refuse(
                            found=f"other weights for {unit} than for {units[0]}, as"
                            f" {pattern or patterns[0]!r} is in one name alone",
                            expected="the same for a whole adapter, as"
                            f" {self.method.name} merges what adapters do",
                            do="Take a pattern that is in all its names, such as its"
                            " layer",
                        )


class _Layer(NamedTuple):
    """Parameters of one layer that are merged together.

    Attributes:
      parts: By the name of a parameter, the name of its layer and where that is in it.
      sides: Of those that belong to an adapter, by the names of their layers.
    """

    parts: dict[str, tuple[str, tuple[Any, ...]]]
    sides: dict[str, Side]

    def of(self, leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns the layer of an expert, or of a base, which has no adapters."""
        return trees.unflatten(
            {
                unit: leaves[name][index]
                for name, (unit, index) in self.parts.items()
                if name in leaves
            }
        )


def _layers(leaves: Mapping[str, np.ndarray], beside: Beside) -> Iterator[_Layer]:
    """Yields the layers of all parameters, those of an adapter together."""
    places = {name: [name] for name in leaves if name not in beside}
    for is_linear in (False, True):
        places |= aligning.places(beside, is_linear=is_linear)
    for place, names in places.items():
        labels = [label for label, _ in layers.units(place, leaves[names[0]])]
        units = zip(*(layers.units(name, leaves[name]) for name in names), strict=True)
        for label, layer_units in zip(labels, units, strict=True):
            parts = dict(zip(names, layer_units, strict=True))
            sides = {
                unit: beside[name]._replace(place=label)
                for name, (unit, _) in parts.items()
                if name in beside
            }
            yield _Layer(parts, sides)


def _put(out: np.ndarray, layer: np.ndarray, side: Side | None) -> None:
    """Writes a merged layer; of an adapter that is less wide, beside what adds nothing.

    Zeros in all parameters of a unit or of a rank add nothing.
    """
    if side is not None:
        axis = side.axis
        out = np.moveaxis(np.moveaxis(out, axis, 0)[: layer.shape[axis]], 0, axis)
    out[...] = layer
