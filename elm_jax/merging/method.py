"""What a merge method is: a frozen dataclass that makes one expert of several."""

import abc
import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

from elm_jax import errors, fields, trees
from elm_jax.merging import combining
from elm_jax.types import Params, Side

Beside = Mapping[str, Side]
"""By its name, how a parameter of adapters lies beside those of other experts."""
NOTHING: Beside = types.MappingProxyType({})

Unit = Literal["value", "tensor", "place", "expert"]
"""What a method can merge by itself, without the rest of the experts:

- `value`: each number; parameters in `beside` a tensor at a time.
- `tensor`: a leaf; of a leaf that holds a stack of layers, one layer.
- `place`: all parameters in `beside` of one adapter, in one layer; the others a tensor
  at a time.
- `expert`: whole experts only.
"""

Statistics = Mapping[str, Any]
"""What was measured with one expert, by names of leaves; methods say which."""

Measure = Literal["", "grams", "fisher", "hidden"]
"""Statistics that programs can measure by themselves:

- `grams`: means of x x' over what matrices read, as of `regression.RegMean`.
- `fisher`: the diagonal of the Fisher information, as of `regression.Fisher`.
- `hidden`: what matrices read, on the same rows, as of `narrowing.Narrowed`.
"""

LAWS: Mapping[str, str] = types.MappingProxyType(
    {
        "order": "the order of the experts, with their weights, changes no bit",
        "one_expert": "one expert merges to itself, bit for bit",
        "one_hot": "weights [1, 0, 0] give the first expert, bit for bit",
        "equal_experts": "equal experts merge to themselves, with weights of sum 1",
        "zero_scale": "scale 0 gives the base, bit for bit",
        "scaling": "twice the scale changes the base twice as much",
        "sign": "experts that change the opposite merge to the opposite change",
        "replay": "the same recipe gives the same bits",
    }
)
"""What merging should keep to; `MergeMethod.breaks` names what a method does not."""


class Layout(NamedTuple):
    """How adapters lie in what a method makes: as the fields of `Merged` tell."""

    num_beside: int = 1
    rank: int = 0


@dataclasses.dataclass(frozen=True)
class Merged:
    """An expert that a method made.

    Attributes:
      params: NumPy arrays in the dtypes of the experts.
      num_beside: How many experts' adapters lie beside each other in it: so many times
        as wide they are.
      rank: Inner width of its adapters, where the method has chosen one; 0 elsewhere.
      facts: What it tells of the merge, such as a share of energy that was cut off.
    """

    params: dict[str, Any]
    num_beside: int = 1
    rank: int = 0
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeMethod(abc.ABC):
    """A way to make one expert of several, with its options as fields.

    `LAWS` has the laws that methods keep with their default options, but for those that
    `breaks` names. Two of them `merge` itself sees to: experts are given in an order of
    their own, and those of weight 0 are not given at all.

    A subclass is used by its value, also one from outside of this package; what has a
    line in `methods.METHODS` can be named by its name alone.
    """

    name: ClassVar[str]
    """What manifests and users call it."""
    reference: ClassVar[str]
    """Where it was proposed."""
    needs_base: ClassVar[bool] = False
    """Whether it starts from the base."""
    needs_statistics: ClassVar[str] = ""
    """What has to be measured with each expert; "" for nothing."""
    measures: ClassVar[Measure] = ""
    """Which of the statistics that programs can measure this is; "" for another."""
    knows_adapters: ClassVar[bool] = False
    """Whether it has to be told of adapters also where it needs no base."""
    only_ratios: ClassVar[bool] = False
    """Whether only the ratios of weights count, as in an average."""
    shows_not_finite: ClassVar[bool] = False
    """Whether a number that is not finite always shows in its result, which it checks;
    of other methods it is looked for in what they are given."""
    breaks: ClassVar[Mapping[str, str]] = types.MappingProxyType({})
    """Laws that it does not keep, with the reason."""

    def __post_init__(self) -> None:
        """Raises ConfigError for an option with a value that it cannot have."""
        fields.check(self)

    @property
    def unit(self) -> Unit:
        """The smallest part of experts that it can merge by itself."""
        return "expert"

    @property
    def on_effects(self) -> bool:
        """Whether it merges what LoRAs do, not their matrices: ranks may differ."""
        return False

    @classmethod
    def takes_weights(cls) -> bool:
        """Returns whether each expert may have a weight."""
        return any(field.name == "weights" for field in dataclasses.fields(cls))

    def check(self, num_experts: int) -> None:
        """Raises ConfigError unless the options are for this many experts."""
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

    def weighted(self, num_experts: int) -> list[int]:
        """Returns places of experts whose weight is not 0; the first, if all are 0."""
        weights = getattr(self, "weights", ()) or (1.0,) * num_experts
        return [place for place, weight in enumerate(weights) if weight != 0.0] or [0]

    def recipe(self) -> dict[str, Any]:
        """Returns its name and options as JSON values."""
        return {"method": self.name, **dataclasses.asdict(self)}

    def layout(self, num_experts: int, rank: int) -> Layout:
        """Returns how adapters will lie in the merge of this many experts.

        Args:
          num_experts: Those that are given; `check` must take so many.
          rank: Of their LoRAs; 0 of other kinds.
        """
        places = self.weighted(num_experts)
        method = self._for_experts(places)
        if len(places) == 1 and method._keeps_one():
            return Layout()
        return method._layout(len(places), rank)

    def merge(
        self,
        experts: Sequence[Params],
        *,
        base: Params | None = None,
        beside: Mapping[str, tuple[Any, ...]] = NOTHING,
        marks: Sequence[str] = (),
        statistics: Sequence[Statistics] = (),
    ) -> Merged:
        """Returns the expert that it makes of experts, or the part of it.

        Parts of experts, no smaller than `unit` says, give the bits that they have in
        the whole. A layer that is given apart has a name of its own and no leading
        axis: `encoder/layers_3/mlp/wi/kernel`.

        Args:
          experts: One or more trees with equal names, shapes and floating dtypes.
          base: What the experts started from, with exactly their leaves but for those
            in `beside`; for a method that needs it, and only for one.
          beside: Leaves of adapters, of which the base has none.
          marks: Texts by which experts are ordered, such as their fingerprints, one for
            each. Whoever gives parts of experts must give them; else they are computed.
          statistics: For a method that needs them: one for each expert.

        Raises:
          ConfigError: Trees that differ, options that are not for so many experts, or
            parameters or a result that are not finite.
        """
        num_given = len(experts)
        self.check(num_given)
        self._check_given(base, statistics, num_given)
        combining.check_alike(experts)
        sides = {name: Side(*side) for name, side in beside.items()}
        places = self._used(experts, sides, marks)
        method = self._for_experts(places)
        experts = [experts[place] for place in places]
        statistics = [statistics[place] for place in places] if statistics else ()
        if len(experts) == 1 and method._keeps_one():
            return Merged(combining.copied(experts[0]))
        if not self.shows_not_finite:
            names = [f"expert {place + 1} of {num_given}" for place in places]
            combining.check_each_given([*zip(names, experts, strict=True)])
            combining.check_given("the base", base or {})
        return method._merge_with(experts, base, sides, statistics)

    @abc.abstractmethod
    def _merge(
        self, experts: Sequence[Params], base: Params | None, beside: Beside
    ) -> Merged:
        """Returns the merged expert; the arguments are checked, as `merge` has them."""

    def _merge_with(
        self,
        experts: Sequence[Params],
        base: Params | None,
        beside: Beside,
        statistics: Sequence[Statistics],
    ) -> Merged:
        """Returns the merged expert; for methods that need statistics."""
        del statistics
        return self._merge(experts, base, beside)

    def _layout(self, num_experts: int, rank: int) -> Layout:
        """Returns how adapters lie in the result of `_merge`; some methods widen."""
        del num_experts, rank
        return Layout()

    def _keeps_one(self) -> bool:
        """Returns whether one expert, with its weight, is itself by definition.

        Then it is given back as it is, without being taken apart and put together.
        """
        return False

    def _needs_order(self, beside: Beside) -> bool:
        """Returns whether the order of the experts could change a bit."""
        del beside
        return True

    def _for_experts(self, places: Sequence[int]) -> Self:
        """Returns the method for the experts in these places, in this order."""
        weights: Sequence[float] = getattr(self, "weights", ())
        if not weights or list(places) == list(range(len(weights))):
            return self
        chosen = tuple(weights[place] for place in places)
        return dataclasses.replace(self, **{"weights": chosen})

    def _used(
        self, experts: Sequence[Params], beside: Beside, marks: Sequence[str]
    ) -> list[int]:
        """Returns the places of experts that have a weight, in their order."""
        weights = getattr(self, "weights", ()) or (1.0,) * len(experts)
        used = self.weighted(len(experts))
        if len(used) > 1 and self._needs_order(beside):
            keys = {
                place: (
                    marks[place] if marks else trees.fingerprint(experts[place]),
                    weights[place],
                )
                for place in used
            }
            used.sort(key=lambda place: keys[place])
        return used

    def _check_given(
        self, base: Params | None, statistics: Sequence[Statistics], num_experts: int
    ) -> None:
        if self.needs_base != (base is not None):
            combining.refuse(
                found=f"{self.name} {'without' if self.needs_base else 'with'} a base",
                expected=f"{'a' if self.needs_base else 'no'} base for this method",
                do="Give a base to methods that need it, and only to them",
            )
        num_needed = num_experts if self.needs_statistics else 0
        if len(statistics) != num_needed:
            combining.refuse(
                found=f"{self.name} with statistics of {len(statistics)} experts",
                expected=f"{num_needed}: {self.needs_statistics or 'it needs none'}",
                do="Give what the method needs, measured with each expert",
            )
