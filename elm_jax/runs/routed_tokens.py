"""A strategy that mixes a library's experts for each token, at each place of the model.

The model is the base with the experts' adapters stacked beside each other
(`peft.mixture`), and a router of `routing.token_routers` weighs them. Layer norms,
which prompt experts train too, are averaged over the experts, the retrieved one's, or
weighed as well.

There may be two stages: any router of whole tasks takes some experts, and these are
mixed, by a token router or by the weights with which the first stage takes them.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from elm_jax import fields, paths
from elm_jax.checkpoints import manifest
from elm_jax.model import config
from elm_jax.peft import adapters, effects, ia3, mixture
from elm_jax.routing import input_routers, token_routers
from elm_jax.runs import (
    bases,
    candidates,
    expert_checks,
    first_stage,
    mixtures,
    queries,
    routed_candidate,
    routing_cost,
    routing_records,
    strategies,
)
from elm_jax.runs.strategy import Target, options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoutedTokens(first_stage.TwoStages):
    """Experts of the library, mixed token by token and layer by layer.

    Attributes:
      router: What weighs the experts; see `routing.token_routers`.
      num_experts: Those with most votes are mixed, 0 for all of the library.
      first: A first stage, whose experts are mixed, not merged: by the router, or with
        `token_routers.FirstStage` by the weights that a merge would have. None for
        `num_experts`.
      records_dir: What `observe.Observe` recorded, for routers that need it; "" for
        the folder `routing` of the library that is asked.
      record_settings: The `settings` of that run.
      only_chosen: Whether a token's experts without a weight are not computed: the
        same scores up to rounding, and less work where experts are many.
      norms: Whether layer norms, which lie in front of the places where there is a
        choice, are the mean of all experts', also where one has all of the weight, or
        those of the expert with most votes (`retrieved`), or of that which `first`
        ranks first, or weighed means (`routed`): by the weights of the task or input,
        or for each token by the router behind them, if it knows what goes into
        sub-layers. See `peft.mixture`.
      shuffled: A control: each expert is known to the router by what another one has,
        half of all away by name, such as its gates. Of routers that know nothing, and
        of a single expert, it is refused.
      num_traced: Of how many rows of each task it is kept, with the scores, where
        their tokens went, for the report; rows that are scored already stay without.
    """

    kind: ClassVar[str] = "routed_tokens"
    pads_adapters: ClassVar[bool] = True
    router: mixture.Router = token_routers.Arrow()
    records_dir: paths.OptionalPath = ""
    record_settings: routing_records.Settings = routing_records.Settings()
    only_chosen: bool = False
    norms: Literal["averaged", "retrieved", "routed"] = "averaged"
    shuffled: bool = False
    num_traced: fields.CountOrNone = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for options that change nothing with this router."""
        super().__post_init__()
        if self.shuffled and not {*self.router.shapes(1)} - mixtures.SET:
            fields.refuse(self, {"shuffled": f"False: {self.router} knows no expert"})
        if self._by_first_stage and self.stage is None:
            fields.refuse(self, {"first": "a strategy whose weights the router takes"})
        self._mixture(ia3.Ia3(), 1)

    @property
    def _by_first_stage(self) -> bool:
        return isinstance(self.router, token_routers.FirstStage)

    @property
    def default_name(self) -> str:
        """`tokens_by_arrow`, and the options that are not the default."""
        method = f"{self._unit}s_by_{_snake_case(type(self.router).__name__)}"
        parts = ["shuffled", method] if self.shuffled else [method]
        parts += [f"top{self.num_experts}"] if self.num_experts else []
        parts += [f"of_{self.first.label}"] if self.first else []
        parts += ["only_chosen"] if self.only_chosen else []
        parts += [f"norms_{self.norms}"] if self.norms != "averaged" else []
        reads = self.record_settings.reads
        is_other = reads != "adapter" and mixtures.needs_records(self.router)
        parts += [f"reading_{reads}"] if is_other else []
        return "_".join(parts)

    @property
    def note(self) -> str:
        """Describes the strategy in a few words, for tables and reports."""
        experts = "all experts of the library"
        if self.num_experts:
            experts = f"the {self.num_experts} experts with most votes"
        if self.first is not None:
            experts = f"what {self.first.label} takes ({self.first.note or 'by votes'})"
        options = options_of(self.router)
        options_text = "".join(f", {name} {value}" for name, value in options.items())
        name = type(self.router).__name__
        if self.shuffled:
            options_text += ", each with what the router knows of another"
        return f"{name} routes each {self._unit} among {experts}{options_text}"

    @property
    def _unit(self) -> str:
        if self._by_first_stage:
            return "task"
        is_by_input = isinstance(self.router, input_routers.InputRouter)
        return "input" if is_by_input else "token"

    @property
    def reads_votes(self) -> bool:
        """Whether votes tell which experts are mixed, or whose norms there are."""
        if self.stage is None:
            return self.norms == "retrieved"
        return super().reads_votes

    @property
    def merges(self) -> bool:
        """True: it takes several experts, alike but for the width of adapters."""
        return True

    @property
    def settings(self) -> str:
        """As of other strategies.

        What is kept beside scores is no setting of them, nor is where records are that
        the router does not read, nor what the first stage is called.
        """
        unread: dict[str, Any] = {}
        if not mixtures.needs_records(self.router):
            default = type(self)
            unread["records_dir"] = default.records_dir
            unread["record_settings"] = default.record_settings
        if self.first is not None:
            unread["first"] = dataclasses.replace(self.first, name="")
        plain = dataclasses.replace(self, num_traced=0, **unread)
        return super(RoutedTokens, plain).settings

    def choose(self, target: Target) -> candidates.Candidate:
        """Returns the base with the experts that it takes from the library.

        Or the base alone, where a first stage takes none.

        Raises:
          ConfigError: The first stage merges experts otherwise than by a mean.
        """
        candidate, question = super().choose(target), target.question
        if not candidate.folders:
            return candidate
        assert question is not None  # noqa: S101 - it needs the library
        assert question.library_dir is not None  # noqa: S101 - `Queries.ask` gives it
        values: dict[str, Any] = {
            f.name: getattr(candidate, f.name) for f in dataclasses.fields(candidate)
        }
        merge = values.pop("method")  # whose weights may be those of the mixture
        return routed_candidate.RoutedCandidate(
            **values,
            router=self.router,
            weights=merge.weights if self._by_first_stage else (),
            records_dir=self._records_of(question.library_dir, target.path),
            record_settings=self.record_settings,
            only_chosen=self.only_chosen,
            norms_of=self._norms_of(question),
            routes_norms=self.norms == "routed",
            shuffled=self.shuffled,
            num_traced=self.num_traced,
        )

    def _records_of(
        self, library_dir: pathlib.Path, path: Callable[[str], pathlib.Path]
    ) -> pathlib.Path:
        if self.records_dir:
            return path(self.records_dir)
        return library_dir / routing_records.FOLDER

    def _norms_of(self, question: queries.Question) -> str:
        if self.norms != "retrieved":
            return ""
        stage = self.stage or strategies.Retrieved()
        ranked = stage.ranked(question)
        return "" if not ranked or stage.abstains_from(ranked) else ranked[0][0]

    def check_experts(self, infos: Sequence[manifest.Manifest]) -> None:
        """Raises ConfigError for experts whose adapters or layer norms cannot be mixed.

        Args:
          infos: Of all that a library has.
        """
        for info in infos:
            expert_checks.check_has_adapters(info)
            if self.norms != "averaged":
                expert_checks.check_has_norms(info)
        if mixed_spec := self._mixed(infos):
            mixed_spec.adapter_fn(bases.model_config(infos[0]).emb_dim)

    def check_records(
        self,
        infos: Sequence[manifest.Manifest],
        library_dir: pathlib.Path,
        path: Callable[[str], pathlib.Path],
    ) -> None:
        """Raises LibraryError if the router needs a record that is not there.

        Nothing is looked at where only some of the experts are mixed.

        Args:
          infos: Of the library's experts.
          library_dir: The library.
          path: Makes an absolute path of a text; `Run.path`.
        """
        if self.stage or not mixtures.needs_records(self.router):
            return
        for info in infos:
            records_dir = self._records_of(library_dir, path)
            routing_records.digest(records_dir, info, self.record_settings)

    def costs(self, shape: config.T5Config, infos: Sequence[manifest.Manifest]) -> str:
        """Returns operations and bytes of the experts in one model, for plans.

        And says so where `top_k` leaves no expert out.
        """
        mixed_spec = self._mixed(infos)
        if mixed_spec is None:
            return ""
        cost_text = routing_cost.describe(shape, mixed_spec)
        top_k, number = mixed_spec.router.num_chosen, mixed_spec.num_experts
        if top_k >= number > 1:
            return f"{cost_text}; top_k {top_k} chooses all"
        return cost_text

    def added_share(
        self, shape: config.T5Config, infos: Sequence[manifest.Manifest]
    ) -> float:
        """Returns the operations of experts and router, as a share of the base's."""
        mixed_spec = self._mixed(infos)
        return routing_cost.per_token(shape, mixed_spec).share if mixed_spec else 0.0

    def _mixed(self, infos: Sequence[manifest.Manifest]) -> mixture.Mixture | None:
        """Returns the mixture of a library's experts; None if they cannot be mixed."""
        specs = [spec for info in infos if (spec := bases.adapter_spec(info))]
        if not specs or len(specs) < len(infos):
            return None
        return self._mixture(effects.common(specs), self.num_taken(len(infos)))

    def _mixture(self, spec: adapters.AdapterSpec, number: int) -> mixture.Mixture:
        return mixtures.make(
            spec,
            number,
            self.router,
            only_chosen=self.only_chosen,
            settings=self.record_settings,
            routes_norms=self.norms == "routed",
        )


def _snake_case(name: str) -> str:
    """Returns a class's name as a label.

    >>> _snake_case("EffectNorm")
    'effect_norm'
    """
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
