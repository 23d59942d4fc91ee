"""The base with several experts at once, weighed by a router, to be scored."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import errors, trees
from elm_jax.data import token_store
from elm_jax.model import t5
from elm_jax.peft import adapters, effects, mixture
from elm_jax.routing import directions, token_routers
from elm_jax.runs import (
    bases,
    candidates,
    expert_checks,
    loaded,
    mixtures,
    routing_records,
    routing_traces,
    scorer,
)
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True)
class RoutedCandidate(candidates.Candidate):
    """The base with several experts at once, weighed by a router.

    Attributes:
      router: What weighs them.
      weights: Of the first stage, one for each expert, for `token_routers.FirstStage`;
        () for other routers.
      records_dir: Folder of what the router has to know beforehand.
      record_settings: What the records were made with.
      only_chosen: Whether a token's experts without a weight are not computed.
      norms_of: The expert whose layer norms are taken; "" for the mean of all.
      routes_norms: Whether layer norms are weighed instead, as `peft.mixture` does it.
      shuffled: Whether the router has of each expert what is another one's, half of
        all experts away by name.
      num_traced: Rows whose routing is kept with the scores.
    """

    router: mixture.Router = token_routers.Fixed()
    weights: tuple[float, ...] = ()
    records_dir: pathlib.Path = pathlib.Path()
    record_settings: routing_records.Settings = routing_records.Settings()
    only_chosen: bool = False
    norms_of: str = ""
    routes_norms: bool = False
    shuffled: bool = False
    num_traced: int = 0

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """The identity of its parameters and its router, 16 hex digits."""
        identity: list[Any] = [info.fingerprint for info in self.manifests]
        if mixtures.needs_records(self.router):
            records_dir, settings = self.records_dir, self.record_settings
            identity += [
                routing_records.digest(records_dir, info, settings)
                for info in self.manifests
            ]
        text = json.dumps([identity, self._router_text], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def is_merged(self) -> bool:
        """True: its parameters are not those of one expert."""
        return True

    @property
    def origin(self) -> tuple[object, ...]:
        """The source of its parameters."""
        return (self.folders, self._router_text, self._records_text)

    @property
    def origin_text(self) -> str:
        """The same as a text."""
        parts = [*map(str, self.folders), self._router_text, self._records_text]
        return " ".join(filter(None, parts))

    @property
    def _records_text(self) -> str:
        return f"{self.records_dir}" if mixtures.needs_records(self.router) else ""

    @property
    def _router_text(self) -> str:
        settings = self.record_settings if mixtures.needs_records(self.router) else None
        options = " only_chosen" if self.only_chosen else ""
        options += f" norms of {self.norms_of}" if self.norms_of else ""
        options += " norms routed" if self.routes_norms else ""
        options += " shuffled by half" if self.shuffled else ""
        options += f" weights {self.weights}" if self.weights else ""
        # As it was before there was a choice, so that scores of then are known.
        return f"{self.router} {settings}{options}".replace(", reads='adapter'", "")

    def load(self, base: loaded.Base) -> tuple[Params, adapters.AnySpec]:
        """Returns base, stacked adapters and the router's parameters, and their spec.

        Adapters of several widths are padded to the greatest; what the router has of
        each expert is of its own adapters as they are.

        Raises:
          CheckpointError: An expert does not fit the base's shape.
          ConfigError: The experts are not alike, or have no adapters to mix; there are
            no weights of a first stage; one is to be shuffled; `norms_of` is none of
            them; or their layer norms are to be routed and they have none, or the
            router does not know how.
          FingerprintError: An expert belongs to another base.
          LibraryError: The router needs records that are not there.
        """
        infos = self.manifests
        expert_checks.check_alike(infos, pads=True)
        if self.shuffled and len(infos) == 1:
            raise errors.ConfigError(
                found=f"{infos[0].name} alone to be shuffled",
                expected="two or more experts",
                do="Set shuffled = False, or add experts to the library",
            )
        for info in infos:
            expert_checks.check_has_adapters(info)
        self._check_weights()
        experts = [loaded.Expert.load(folder) for folder in self.folders]
        for expert in experts:
            base.check_fits(expert)
        params = [trees.as_float32(expert.params) for expert in experts]
        specs = [expert.adapter for expert in experts if expert.adapter]
        spec = effects.common(specs)
        padded = [
            effects.widened(part, of_part, to=spec)
            for part, of_part in zip(params, specs, strict=True)
        ]
        mixed_spec = mixtures.make(
            spec,
            len(experts),
            self.router,
            only_chosen=self.only_chosen,
            settings=self.record_settings,
            routes_norms=self.routes_norms,
        )
        shapes = t5.param_shapes(bases.build_model(base.config, mixed_spec))
        norms = mixture.norms_of(shapes)
        stacked = mixture.stack(padded, routed_norms=norms)
        self._check_norms(trees.flatten(stacked), norms)
        whole = trees.replace(base.params, stacked)
        if self.norms_of:
            number = [info.name for info in infos].index(self.norms_of)
            of_expert = trees.split(params[number], "_adapter/")[1]
            whole = trees.replace(whole, of_expert)
        router = self._router_params(params, norms) | self._set_params(shapes)
        whole = trees.replace(whole, trees.unflatten(router))
        plain = [f"{norm}/scale" for norm in norms]  # which no part of the model reads
        return trees.select(whole, plain)[1], mixed_spec

    def _check_weights(self) -> None:
        """Raises ConfigError where weights of a first stage are lacking."""
        by_first_stage = isinstance(self.router, token_routers.FirstStage)
        if by_first_stage and len(self.weights) != len(self.folders):
            raise errors.ConfigError(
                found=f"{self.router} with {len(self.weights)} weights of a first stage"
                f" for {len(self.folders)} experts",
                expected="one for each, as routed_tokens.RoutedTokens.first gives them",
                do="Take token_routers.Fixed(weights=...) instead, such as with the"
                " softmax of what Library.route gives",
            )

    def _check_norms(self, stacked: Collection[str], routed: Collection[str]) -> None:
        """Raises ConfigError for layer norms that these experts do not have.

        Args:
          stacked: Names of their parameters in one model.
          routed: Places of the layer norms that are routed.
        """
        names = [info.name for info in self.manifests]
        if self.norms_of and self.norms_of not in names:
            raise errors.ConfigError(
                found=f"norms_of = {self.norms_of!r}",
                expected=f"one of {', '.join(names)}",
                do="Name one of the experts that are mixed",
            )
        if self.norms_of and self.routes_norms:
            raise errors.ConfigError(
                found=f"layer norms of {self.norms_of} that are routed",
                expected="one of the two",
                do="Leave norms_of or routes_norms out",
            )
        expected = [f"{norm}/{mixture.EXPERTS}/scale" for norm in routed]
        has_some = any("_norm/" in name for name in stacked)
        if not {*expected} <= {*stacked} or (self.norms_of and not has_some):
            raise errors.ConfigError(
                found=f"layer norms to be routed or taken, and {names[0]}, which has"
                " none or not all of them",
                expected="experts with layer norms, such as prompt experts",
                do="Leave the norms out: these experts have those of the base",
            )

    def kept_with_scores(
        self,
        program: scorer.Scorer,
        params: Params,
        adapter: adapters.AnySpec | None,
        dataset: token_store.TokenizedDataset,
        rows: Sequence[int],
    ) -> dict[str, np.ndarray]:
        """Returns the trace of the first rows, where answers are ranked."""
        if not self.num_traced or not dataset.has_choices:
            return {}
        assert adapter is not None  # noqa: S101 - `load` gives it
        examples = [dataset[row] for row in rows[: self.num_traced]]
        names = [info.name for info in self.manifests]
        array = program.trace(params, adapter, examples, names)
        return {routing_traces.ARRAY: array}

    def _set_params(self, shapes: Params) -> dict[str, np.ndarray]:
        """Returns by name what the router has that no expert tells: `mixtures.SET`.

        Args:
          shapes: Of the parameters of the model.
        """
        names = mixtures.SET & {*self.router.shapes(1)}
        if not names:
            return {}
        (name,) = names
        part = f"/{mixture.ROUTER}/{name}"
        return {
            path: self._set(path.removesuffix(part), leaf.shape)
            for path, leaf in trees.flatten(shapes).items()
            if path.endswith(part)
        }

    def _set(self, place: str, shape: Sequence[int]) -> np.ndarray:
        """Returns the weights of the first stage, [layers, experts], or directions."""
        router = self.router
        if isinstance(router, token_routers.Random):
            drawn = [
                router.directions(f"{info.fingerprint} {place}", (shape[0], *shape[2:]))
                for info in self.manifests
            ]
            return np.stack(drawn, axis=1)
        return np.broadcast_to(np.array(self.weights, np.float32), shape)

    def _router_params(
        self, experts: Sequence[Params], norms: Mapping[str, str]
    ) -> dict[str, np.ndarray]:
        """Returns the router's parameters by name, experts behind the layers' axis.

        Args:
          experts: The parameters of each expert.
          norms: What `mixture.norms_of` gives: these have what their adapters have.
        """
        if not {*self.router.shapes(1)} - mixtures.SET:
            return {}
        of_experts: list[Mapping[str, Mapping[str, np.ndarray]]]
        if mixtures.needs_records(self.router):
            records_dir, settings = self.records_dir, self.record_settings
            of_experts = [
                routing_records.read(records_dir, info, settings)
                for info in self.manifests
            ]
        else:
            of_experts = [
                {place: {"direction": arrow} for place, arrow in arrows.items()}
                for arrows in map(directions.arrow_directions, experts)
            ]
        if self.shuffled:  # neighbours by name are often siblings
            half = len(of_experts) // 2
            of_experts = [*of_experts[half:], *of_experts[:half]]
        places = {place: place for place in of_experts[0]} | dict(norms)
        return {
            f"{place}/{mixture.ROUTER}/{name}": np.stack(
                [arrays[source][name] for arrays in of_experts], axis=1
            )
            for place, source in places.items()
            for name in self.router.shapes(1)
        }
