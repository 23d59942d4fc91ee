"""A strategy that mixes a library's experts for each token, at each place of the model.

The model is the base with the experts' adapters stacked beside each other
(`peft.mixture`), and a router of `routing.token_routers` weighs them. Layer norms,
which prompt experts train too, are averaged over the experts.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from elm_jax import fields, paths, trees
from elm_jax.checkpoints import manifest
from elm_jax.model import config
from elm_jax.peft import adapters, ia3, mixture
from elm_jax.routing import directions, token_routers
from elm_jax.runs import (
    bases,
    candidates,
    expert_checks,
    loaded,
    routing_cost,
    routing_records,
)
from elm_jax.runs.strategy import Choice, LibraryStrategy, Target, options_of
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True)
class RoutedCandidate(candidates.Candidate):
    """The base with several experts at once, weighed by a router.

    Attributes:
      router: What weighs them.
      records_dir: Folder of what the router has to know beforehand.
      record_settings: What the records were made with.
      only_chosen: Whether a token's experts without a weight are not computed.
    """

    router: mixture.Router = token_routers.Fixed()
    records_dir: pathlib.Path = pathlib.Path()
    record_settings: routing_records.Settings = routing_records.Settings()
    only_chosen: bool = False

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """The identity of its parameters and its router, 16 hex digits."""
        made: list[Any] = [info.fingerprint for info in self.manifests]
        if _needs_records(self.router):
            where, settings = self.records_dir, self.record_settings
            made += [
                routing_records.digest(where, info, settings) for info in self.manifests
            ]
        text = json.dumps([made, self._router_text], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def is_merged(self) -> bool:
        """Always: its parameters are not those of one expert."""
        return True

    @property
    def origin(self) -> tuple[object, ...]:
        """What its parameters are made of."""
        return (self.folders, self._router_text, self._records_text)

    @property
    def origin_text(self) -> str:
        """The same as a text."""
        parts = [*map(str, self.folders), self._router_text, self._records_text]
        return " ".join(filter(None, parts))

    @property
    def _records_text(self) -> str:
        return f"{self.records_dir}" if _needs_records(self.router) else ""

    @property
    def _router_text(self) -> str:
        settings = self.record_settings if _needs_records(self.router) else None
        few = " only_chosen" if self.only_chosen else ""
        # As it was before there was a choice, so that scores of then are known.
        return f"{self.router} {settings}{few}".replace(", reads='adapter'", "")

    def load(self, base: loaded.Base) -> tuple[Params, adapters.AnySpec]:
        """Returns base, stacked adapters and the router's parameters, and their spec.

        Raises:
          CheckpointError: An expert does not fit the base's shape.
          ConfigError: The experts are not alike, or have no adapters to mix.
          FingerprintError: An expert belongs to another base.
          LibraryError: The router needs records that are not there.
        """
        infos = self.manifests
        expert_checks.check_alike(infos)
        for info in infos:
            expert_checks.check_has_adapters(info)
        experts = [loaded.Expert.load(folder) for folder in self.folders]
        for expert in experts:
            base.check_fits(expert)
        params = [trees.as_float32(expert.params) for expert in experts]
        spec = experts[0].adapter
        assert spec is not None  # noqa: S101 - `check_has_adapters` has looked
        made = _mixture(
            spec,
            len(experts),
            self.router,
            only_chosen=self.only_chosen,
            settings=self.record_settings,
        )
        whole = trees.replace(base.params, mixture.stack(params))
        router = trees.unflatten(self._router_params(params))
        return trees.replace(whole, router), made

    def _router_params(self, experts: Sequence[Params]) -> dict[str, np.ndarray]:
        """Returns the router's parameters by name, experts behind the layers' axis."""
        if not self.router.shapes(1):
            return {}
        each: list[Mapping[str, Mapping[str, np.ndarray]]]
        if _needs_records(self.router):
            where, settings = self.records_dir, self.record_settings
            each = [
                routing_records.read(where, info, settings) for info in self.manifests
            ]
        else:
            each = [
                {place: {"direction": arrow} for place, arrow in found.items()}
                for found in map(directions.arrow_directions, experts)
            ]
        return {
            f"{place}/{mixture.ROUTER}/{name}": np.stack(
                [arrays[place][name] for arrays in each], axis=1
            )
            for place in each[0]
            for name in self.router.shapes(1)
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoutedTokens(LibraryStrategy):
    """Experts of the library, mixed token by token and layer by layer.

    Attributes:
      router: What weighs the experts; see `routing.token_routers`.
      num_experts: Those with most votes are mixed, 0 for all of the library.
      records_dir: What `observe.Observe` recorded; for routers that need it.
      record_settings: The `settings` of that run.
      only_chosen: Whether a token's experts without a weight are not computed: the
        same scores up to rounding, and less work where experts are many.
    """

    kind: ClassVar[str] = "routed_tokens"
    router: mixture.Router = token_routers.Arrow()
    num_experts: fields.CountOrNone = 0
    records_dir: paths.Path = "{MODEL_DIR}/library/routing"
    record_settings: routing_records.Settings = routing_records.Settings()
    only_chosen: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for `only_chosen` where the router chooses none."""
        super().__post_init__()
        self._mixture(ia3.Ia3(), 1)

    @property
    def default_name(self) -> str:
        """`tokens_by_arrow`, and what is not as by default."""
        parts = [f"tokens_by_{_snake_case(type(self.router).__name__)}"]
        parts += [f"top{self.num_experts}"] if self.num_experts else []
        parts += ["only_chosen"] if self.only_chosen else []
        reads = self.record_settings.reads
        is_other = reads != "adapter" and _needs_records(self.router)
        parts += [f"reading_{reads}"] if is_other else []
        return "_".join(parts)

    @property
    def note(self) -> str:
        """What it is."""
        which = f"the {self.num_experts} experts with most votes"
        which = which if self.num_experts else "all experts of the library"
        options = options_of(self.router)
        told = "".join(f", {name} {value}" for name, value in options.items())
        return f"{type(self.router).__name__} routes each token among {which}{told}"

    @property
    def merges(self) -> bool:
        """Always: it takes several experts, which have to be alike."""
        return True

    def choose(self, target: Target) -> candidates.Candidate:
        """Returns the base with the experts that it takes from the library."""
        given = super().choose(target)
        values = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}
        return RoutedCandidate(
            **values,
            router=self.router,
            records_dir=target.path(self.records_dir),
            record_settings=self.record_settings,
            only_chosen=self.only_chosen,
        )

    def costs(self, shape: config.T5Config, infos: Sequence[manifest.Manifest]) -> str:
        """Returns operations and bytes of the experts in one model, for plans."""
        spec = bases.adapter_spec(infos[0]) if infos else None
        if spec is None:
            return ""
        number = min(len(infos), self.num_experts or len(infos))
        return routing_cost.describe(shape, self._mixture(spec, number))

    def _mixture(self, spec: adapters.AdapterSpec, number: int) -> mixture.Mixture:
        return _mixture(
            spec,
            number,
            self.router,
            only_chosen=self.only_chosen,
            settings=self.record_settings,
        )

    def pick(self, question: Any) -> Choice:
        """Returns the experts, by name."""
        names = [*question.experts]
        if self.num_experts:
            first = question.result.ranked("votes")[: self.num_experts]
            names = [name for name, _ in first]
        return Choice(tuple(sorted(names)))


def _mixture(
    spec: adapters.AdapterSpec,
    number: int,
    router: mixture.Router,
    *,
    only_chosen: bool,
    settings: routing_records.Settings,
) -> mixture.Mixture:
    return mixture.Mixture(
        of=spec,
        num_experts=number,
        router=router,
        only_chosen=only_chosen,
        # A direction is one of what its adapter reads.
        reads=settings.reads if _needs_records(router) else "adapter",
    )


def _needs_records(router: mixture.Router) -> bool:
    return not {"direction"} >= {*router.shapes(1)}


def _snake_case(name: str) -> str:
    """Returns a class's name as a label.

    >>> _snake_case("EffectNorm")
    'effect_norm'
    """
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
