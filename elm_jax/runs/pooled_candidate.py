"""Experts whose answers are pooled: each scores the choices, and their sum decides."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from elm_jax import errors
from elm_jax.peft import adapters
from elm_jax.routing import pooling
from elm_jax.runs import candidates, loaded
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True)
class PooledCandidate(candidates.Candidate):
    """Experts whose scores of answer choices are added up; see `routing.pooling`.

    Attributes:
      weights: Of the experts, in the order of `folders`.
      place_means: What is taken from each place of the choices; () for nothing.
    """

    weights: tuple[float, ...] = ()
    place_means: tuple[float, ...] = ()

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """The identity of its experts, weights and means, 16 hex digits."""
        identity = [
            [x.fingerprint for x in self.manifests],
            self.weights,
            self.place_means,
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

    @property
    def is_merged(self) -> bool:
        """True: its answers are not those of one expert."""
        return True

    @property
    def origin(self) -> tuple[object, ...]:
        """The source of its answers."""
        return (self.folders, self.weights, self.place_means)

    @property
    def origin_text(self) -> str:
        """The same as a text."""
        return f"{' '.join(map(str, self.folders))} {self.weights} {self.place_means}"

    @property
    def models(self) -> tuple[candidates.Candidate, ...]:
        """Its experts, each of which is scored by itself."""
        return tuple(candidates.of_experts(self.folders))

    def load(self, base: loaded.Base) -> tuple[Params, adapters.AnySpec | None]:
        """Raises ConfigError: a pool is several models."""
        raise errors.ConfigError(
            found=f"{self.name}, a pool of {len(self.folders)} experts, as one model",
            expected="one of its experts: each of them scores the answers",
            do="Score tasks with answer choices by elm_eval",
        )

    def pooled(self, scores: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Returns the scores of rows' choices.

        Args:
          scores: Of each expert, for each row: float [choices], in nats.

        Returns:
          For each row float32 [choices].

        Raises:
          DataError: Experts have scored different rows.
        """
        return [
            pooling.without_preference(row, self.place_means).astype(np.float32)
            for row in pooling.pooled(self.weights, scores)
        ]
