"""A base, or a base with an expert on it, that scores choices and writes texts."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from elm_jax.api import pieces, rows
from elm_jax.data import tasks
from elm_jax.model import decoding_spec
from elm_jax.peft import adapters
from elm_jax.runs import (
    loaded,
    placement,
    routed_candidate,
    scorer,
    task_data,
    vocabularies,
)
from elm_jax.types import Params

_LEAST_BATCH = 8


class Model:
    """A base, or a base with an expert on it, ready to answer.

    Its numbers are those of `elm_eval` for the same texts, which are never cut. The
    first call for a length of texts compiles; parameters stay on the devices.

    Args:
      base: The base.
      expert: An expert of it; None for the base alone.
      vocabulary: A SentencePiece model, for a base that brings none.
      batch_size: Texts per call of the devices; by default 8, or one for each device.
      max_tokens: Tokens that a written text has at most, its end included.
      decoding: How written tokens are chosen; by default greedily.

    Raises:
      ConfigError: There is no vocabulary, or the devices do not share the batch.
      CheckpointError: The expert does not fit the base.
      FingerprintError: The expert is of another base or vocabulary.
    """

    def __init__(
        self,
        base: loaded.Base,
        expert: loaded.Expert | None = None,
        *,
        vocabulary: str | pathlib.Path | None = None,
        batch_size: int | None = None,
        max_tokens: int = 64,
        decoding: decoding_spec.DecodingSpec = decoding_spec.GREEDY,
    ) -> None:
        self.base, self.expert = base, expert
        self._vocabulary = pieces.of_base(base, vocabulary)
        if expert is not None:
            base.check_fits(expert)
            vocabularies.check(expert.manifest, self._vocabulary)
        num_devices = jax.device_count()
        batch_size = batch_size or -(-_LEAST_BATCH // num_devices) * num_devices
        self._scorer = scorer.Scorer(
            base,
            task_data.OpenedData(
                vocabulary=self._vocabulary,
                features=tasks.Features(targets_length=max_tokens),
                data_options=tasks.DataOptions(cache_dir=""),
            ),
            batch_size=batch_size,
            where=placement.Placement(),
            decoding=decoding,
        )

    def score(self, text: str, choices: Sequence[str]) -> np.ndarray:
        """Returns the log-probability of each answer to a text.

        Args:
          text: The input.
          choices: Two answers or more.

        Returns:
          float32 [choices], in nats, the end token included.

        Raises:
          DataError: The text or a choice is empty.
          CheckpointError: A number is not finite.
        """
        return self.score_all([text], [choices])[0]

    def score_all(
        self, texts: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        """Returns the log-probabilities of each text's choices; see `score`.

        Raises:
          ConfigError: There are not as many lists of choices as texts.
        """
        rows.check_numbers(texts, choices, "lists of choices")
        scored_rows = [
            {"inputs": text, "targets": next(iter(some), ""), "choices": [*some]}
            for text, some in zip(texts, choices, strict=True)
        ]
        examples = rows.tokenize(scored_rows, self._vocabulary, has_choices=True)
        outcome = self._scorer.rank(*self._placed, examples)
        return list(outcome.scores)

    def choose(self, text: str, choices: Sequence[str]) -> str:
        """Returns the choice with the greatest log-probability; see `score`."""
        return choices[int(self.score(text, choices).argmax())]

    def generate(self, text: str) -> str:
        """Returns the text that the model writes for an input.

        Raises:
          DataError: The input is empty.
          CheckpointError: Logits are not finite.
        """
        return self.generate_all([text])[0]

    def generate_all(self, texts: Sequence[str]) -> list[str]:
        """Returns what the model writes for each input; see `generate`."""
        # A row has a target; this one is not read.
        input_rows = [{"inputs": text, "targets": "-"} for text in texts]
        examples = rows.tokenize(input_rows, self._vocabulary, has_choices=False)
        return self._scorer.write(*self._placed, examples).texts

    def __repr__(self) -> str:
        """Returns the base and the expert."""
        return f"<Model of {self.base!r} with {self.expert!r}>"

    @functools.cached_property
    def _placed(self) -> tuple[Params, adapters.AnySpec | None]:
        params, adapter = self._load()
        return self._scorer.place(params), adapter

    def _load(self) -> tuple[Params, adapters.AnySpec | None]:
        """Returns the parameters of the whole model, and the adapters among them."""
        if self.expert is None:
            return self.base.params, None
        return self.base.with_expert(self.expert), self.expert.adapter


class MixtureModel(Model):
    """A base with several experts at once, weighed by a router; see `Library.mixture`.

    Args:
      base: The base.
      candidate: The experts, and the router.
      options: Those of `Model`.

    Raises:
      ConfigError: As `Model`, or the experts are not alike, or have no adapters to mix.
      CheckpointError: An expert does not fit the base.
      FingerprintError: An expert is of another base or vocabulary.
      LibraryError: The router needs records that are not there.
    """

    def __init__(
        self,
        base: loaded.Base,
        candidate: routed_candidate.RoutedCandidate,
        **options: Any,
    ) -> None:
        super().__init__(base, **options)
        self.candidate = candidate
        for info in candidate.manifests:
            vocabularies.check(info, self._vocabulary)
        self._mixed = candidate.load(base)

    def __repr__(self) -> str:
        """Returns the base, the router and the experts."""
        names = ", ".join(info.name for info in self.candidate.manifests)
        return f"<Model of {self.base!r} with {self.candidate.router} of {names}>"

    def _load(self) -> tuple[Params, adapters.AnySpec | None]:
        return self._mixed
