"""A library of experts that is asked from Python."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from elm_jax import errors, paths, types
from elm_jax.api import models, pieces, questions, rows
from elm_jax.data import tasks, token_store
from elm_jax.library import catalogue, index, retrieval, text_formats
from elm_jax.peft import mixture
from elm_jax.routing import behaviour, pooling, token_routers
from elm_jax.runs import (
    embedders,
    loaded,
    loss_routers,
    placement,
    pools,
    routed_candidate,
    routers,
    routing_records,
    scorer,
    task_data,
    vocabularies,
)
from elm_jax.runs.task_router import TaskRouter

_STATISTIC: behaviour.Statistic = "log_prob"
_LEAST_BATCH = 8
_LEAST_TEXTS = 8  # that tell which choices models prefer


class Library:
    """Experts that can be found by what they were trained on.

    Args:
      folder: What `elm_library` built.
      base: The base of its experts; needed if its encoder made the keys, and to
        route.
      embedder: What embeds texts; by default what made the keys.
      vocabulary: A SentencePiece model, for a base that brings none.
      data: Where the rows behind keys are, for routers that read them
        (`routers.ByWords`), whose tasks have to be registered (`import tasks.pocket`).
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        base: loaded.Base | None = None,
        *,
        embedder: embedders.EmbedderSpec | None = None,
        vocabulary: str | pathlib.Path | None = None,
        data: tasks.DataOptions | None = None,
    ) -> None:
        self._data_options = data or tasks.DataOptions(cache_dir="")
        self._folder, self._base = paths.absolute(folder), base
        self._embedder_spec, self._vocabulary = embedder, vocabulary
        self._catalogue = catalogue.Catalogue(self._folder)

    @property
    def names(self) -> list[str]:
        """The experts that may be retrieved.

        Raises:
          LibraryError: There is no library.
        """
        return list(self._catalogue.experts())

    def load(self, name: str) -> loaded.Expert:
        """Returns one of its experts.

        Raises:
          LibraryError: The library has none of this name, or another expert is in its
            folder than is listed.
          CheckpointError: Its folder is not there, or damaged.
        """
        return loaded.Expert.load(self._catalogue.checked_dir(name))

    def retrieve(
        self, texts: Sequence[str], choices: Sequence[str] = ()
    ) -> retrieval.Retrieval:
        """Returns which experts' training examples lie nearest to texts.

        Args:
          texts: Inputs of the task that needs an expert; no answers.
          choices: The answer choices of them all; part of what is compared, in
            formats of text that have them.

        Returns:
          `expert`, the name with most votes; `votes`, `(name, number)` in order; and
          for each text its `nearest` expert and the inner product, in `scores`.

        Raises:
          LibraryError: There is no library, no text, or the embedder is another than
            made the keys.
        """
        opened = index.open_index(self._folder)
        written = " ||| ".join(choices) or None
        return retrieval.retrieve_for_texts(
            opened,
            [
                text_formats.format_text(
                    opened.settings.text_format,
                    inputs=text,
                    choices=choices,
                    answer_choices=written,
                )
                for text in texts
            ],
            embedder=self._embedder,
            experts=self.names,
        )

    def route(
        self,
        texts: Sequence[str],
        choices: Sequence[str],
        *,
        statistic: behaviour.Statistic = _STATISTIC,
        router: TaskRouter | None = None,
        answers: Sequence[str] = (),
        among: Sequence[str] | None = None,
    ) -> tuple[tuple[str, float], ...]:
        """Returns experts, ranked by how they answer texts without labels.

        Each expert scores the choices after each text, and a statistic of these
        log-probabilities ranks them; see `elm_jax/routing/README.md`. All are loaded,
        one at a time. Or any other router of whole tasks ranks them, such as
        `elm_jax.runs.key_routers.ByKeys()`.

        A router that abstains from these texts gives none, whatever it would take
        `otherwise`.

        Args:
          texts: Inputs of the task that needs an expert; no answers.
          choices: The answer choices of them all.
          statistic: The statistic by which they are ranked.
          router: What ranks them instead.
          answers: The right choice of each text, for a router that reads labels, such
            as `elm_jax.runs.routers.ByHalving()`.
          among: Names of experts, such as the first ones of `retrieve`; all by default.

        Returns:
          `(name, value)`, greatest first, equal ones by name; as a router ranks them,
          with what it ranks by, and without experts for which it has nothing. () where
          the router abstains, or has nothing for any expert.

        Raises:
          LibraryError: There is no library, no base was given, an expert is unknown, or
            another one is in its folder than is listed.
          DataError: A text or a choice is empty, or an answer is none of the choices.
          ConfigError: There is no such statistic, no expert to choose from, or a router
            beside a statistic or without the answers that it needs.
          CheckpointError: An expert does not fit the base, or a number is not finite.
          FingerprintError: An expert is of another base.
        """
        if router is None:
            router = routers.ByBehaviour(statistic=statistic)
        elif statistic != _STATISTIC:
            raise errors.ConfigError(
                found=f"statistic = {statistic!r} beside {router.label}",
                expected="one of the two",
                do="Give it to the router: routers.ByBehaviour(statistic=...)",
            )
        asked_library = self._asked_library(self._among(among))
        question = asked_library.question(router, texts, choices, answers)
        ranked = router.ranked(question)
        return () if router.abstains_from(ranked) else ranked

    def mixture(
        self,
        router: mixture.Router,
        *,
        among: Sequence[str] | None = None,
        record_settings: routing_records.Settings | None = None,
        only_chosen: bool = False,
        norms_of: str = "",
        routes_norms: bool = False,
        **options: Any,
    ) -> models.MixtureModel:
        """Returns a model with experts side by side, which a router weighs.

        It scores and writes as any `elm_jax.Model`, with the numbers of `elm_eval` for
        `routed_tokens.RoutedTokens`.

        Args:
          router: Of tokens or inputs; see `elm_jax.routing.token_routers`.
          among: Names of the experts, such as the first ones of `route`; all by
            default. The weights of `token_routers.Fixed` are theirs in this order, or
            by default in the alphabetical one.
          record_settings: Of what `elm_library` recorded in the library's folder
            `routing`, for routers that need it.
          only_chosen: Whether a token's experts without a weight are not computed.
          norms_of: The expert whose layer norms are taken; "" for the mean of all, also
            where one has all of the weight.
          routes_norms: Whether these are weighed instead, as `peft.mixture` does it.
          options: Those of `elm_jax.Model`, such as `max_tokens`.

        Raises:
          LibraryError: There is no library, no base was given, an expert is unknown,
            another one is in its folder than is listed, or the router needs records
            that are not there.
          ConfigError: The experts are not alike, or have no adapters to mix;
            `norms_of` is none of them; or the router cannot route layer norms.
          CheckpointError: An expert is damaged, or does not fit the base.
          FingerprintError: An expert is of another base or vocabulary.
        """
        named = sorted(self._among(None)) if among is None else self._among(among)
        names = sorted(named)
        is_fixed = isinstance(router, token_routers.Fixed)
        if is_fixed and len(router.weights) == len(named):
            by_name = dict(zip(named, router.weights, strict=True))
            weights = tuple(by_name[name] for name in names)
            router = dataclasses.replace(router, weights=weights)
        candidate = routed_candidate.RoutedCandidate(
            "mixture",
            tuple(map(self._catalogue.checked_dir, names)),
            "strategy",
            router=router,
            records_dir=self._folder / routing_records.FOLDER,
            record_settings=record_settings or routing_records.Settings(),
            only_chosen=only_chosen,
            norms_of=norms_of,
            routes_norms=routes_norms,
        )
        base = self._needed_base()
        return models.MixtureModel(
            base, candidate, vocabulary=self._vocabulary, **options
        )

    def route_by_inputs(
        self, texts: Sequence[str], *, among: Sequence[str] | None = None
    ) -> tuple[tuple[str, float], ...]:
        """Returns which experts predict missing spans of texts best.

        It needs no answer choices. Texts lose spans as in T5's pre-training; see
        `elm_jax.runs.loss_routers`. All experts are loaded, one at a time.

        Args:
          texts: As for `route`. Those of a single token are left out, which is
            printed.
          among: Names of the experts that are compared; all by default.

        Returns:
          `(name, value)`, greatest first, equal ones by name; the value is the
          log-probability of the missing tokens in nats, a mean over each text's tokens
          and over texts.

        Raises:
          ElmError: As `route` raises it; or no text has two tokens, or the vocabulary
            has too few sentinels for a text.
        """
        names = self._among(among)
        examples = rows.without_spans(texts, self._open_data().vocabulary)
        scores = self._scores(examples, names)
        log_probs = np.array([np.concatenate(scores[name]) for name in names])
        lengths = [len(example.targets) for example in examples]
        return loss_routers.ranked(names, log_probs, lengths)

    def answer(
        self,
        texts: Sequence[str],
        choices: Sequence[str],
        *,
        statistic: behaviour.Statistic = "mass",
        temperature: float = 4.0,
        num_experts: int = 0,
        calibrates: bool = True,
        among: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Returns what a pool of experts gives to the choices after texts.

        Experts are weighed by how they answer these very texts, without labels, and
        their log-probabilities are added up; see `elm_jax/routing/README.md`. Some 32
        texts tell weights and the means of choices well. All experts are loaded, one at
        a time.

        Args:
          texts: Inputs of one task.
          choices: The answer choices of them all.
          statistic: What weighs experts.
          temperature: Of the softmax that makes weights of it, in nats, above 0.
          num_experts: How many have a say, those with the greatest statistic; 0 for
            all.
          calibrates: Whether the mean of each choice over the texts is taken away, for
            which there have to be eight.
          among: Names of the experts that are asked; all by default.

        Returns:
          Float64 [texts, choices], in nats; the greatest of a text is the answer.

        Raises:
          ElmError: As `route` raises it.
        """
        if calibrates and len(texts) < _LEAST_TEXTS:
            raise errors.ConfigError(
                found=f"{len(texts)} texts, by which choices would be calibrated",
                expected=f"{_LEAST_TEXTS} or more, best some 32: of a few, the mean of"
                " a choice is what these texts say, and no preference",
                do="Give more texts of the task, or calibrates=False",
            )
        answer_pool = pools.AnswerPool(
            statistic=statistic,
            temperature=temperature,
            num_experts=num_experts,
            calibrates=calibrates,
        )
        router = routers.ByBehaviour(statistic=statistic)
        question = self._asked_library(self._among(among)).question(
            router, texts, choices
        )
        measured = question.behaviour
        assert measured is not None  # noqa: S101 - the router looks at experts
        pool = answer_pool.pool_of(measured, measured.names)
        log_probs = dict(zip(measured.names, measured.scores.log_probs, strict=True))
        of_experts = [[*log_probs[name]] for name in pool.weights]
        pooled = pooling.pooled([*pool.weights.values()], of_experts)
        means = pool.place_means
        return np.stack([pooling.without_preference(row, means) for row in pooled])

    def _asked_library(self, names: Sequence[str]) -> questions.Asked:
        """Returns the library as routers ask it, with some experts."""
        self._needed_base()
        return questions.Asked(
            {name: self._catalogue.checked_dir(name) for name in names},
            index.open_index(self._folder),
            lambda: self._embedder,
            self._open_data(),
            self._scores,
        )

    def _among(self, among: Sequence[str] | None) -> list[str]:
        """Returns the names of the experts that may be chosen."""
        names = self.names if among is None else [*dict.fromkeys(among)]
        if not names:
            raise errors.ConfigError(
                found="no expert to choose from",
                expected="one or more",
                do="Name experts of the library, or leave `among` out",
            )
        return names

    def _scores(
        self, examples: Sequence[token_store.Example], names: Sequence[str]
    ) -> dict[str, Sequence[np.ndarray]]:
        """Returns what experts, or the base where a name is "", give to choices."""
        base, data = self._needed_base(), self._open_data()
        size = -(-_LEAST_BATCH // jax.device_count()) * jax.device_count()
        program = scorer.Scorer(
            base, data, batch_size=size, where=placement.Placement()
        )

        by_expert = {}
        for name in names:
            params, adapter = base.params, None
            if name:
                expert = self.load(name)
                vocabularies.check(expert.manifest, data.vocabulary)
                params, adapter = base.with_expert(expert), expert.adapter
            outcome = program.rank(program.place(params), adapter, examples)
            by_expert[name] = outcome.scores
        return by_expert

    @functools.cached_property
    def _embedder(self) -> types.Embedder:
        made_by = index.open_index(self._folder).settings.embedder
        spec = self._embedder_spec or embedders.named(made_by)
        return spec.make(
            place=_place, load_base=self._needed_base, load_data=self._open_data
        )

    def _needed_base(self) -> loaded.Base:
        if self._base is None:
            raise errors.LibraryError(
                found="a library without its base",
                expected="the base, whose encoder embeds, or on which experts answer",
                do="Give it: elm_jax.Library(folder, base)",
            )
        return self._base

    def _open_data(self) -> task_data.OpenedData:
        return task_data.OpenedData(
            vocabulary=pieces.of_base(self._needed_base(), self._vocabulary),
            features=tasks.Features(),
            data_options=self._data_options,
        )


def _place(text: str) -> str:
    return f"{paths.absolute(text)}" if text else ""
