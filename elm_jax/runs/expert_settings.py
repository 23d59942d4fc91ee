"""What may differ from expert to expert in one training."""

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from elm_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertSettings:
    """Values for some experts of a run; None leaves what the run says.

    Attributes:
      train_steps: Updates.
      learning_rate: Rate at its highest.
      warmup_steps: Steps of the rise from 0.
      decay: `linear` or `constant`, for AdamW.
      random_seed: Of initialisation, batches and dropout.
      max_examples: Cap per task; 0 for all.
    """

    train_steps: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    decay: Literal["linear", "constant"] | None = None
    random_seed: int | None = None
    max_examples: int | None = None

    def of_run(self) -> dict[str, Any]:
        """Returns the given fields of the run."""
        return self._given("train_steps", "random_seed", "max_examples")

    def of_optimizer(self) -> dict[str, Any]:
        """Returns the given fields of its optimiser."""
        return self._given("learning_rate", "warmup_steps", "decay")

    def _given(self, *names: str) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in names}
        return {name: value for name, value in found.items() if value is not None}


def choose(by_pattern: Mapping[str, ExpertSettings], name: str) -> list[ExpertSettings]:
    """Returns the settings whose pattern fits a name; later ones win over earlier."""
    return [s for pattern, s in by_pattern.items() if fnmatch.fnmatch(name, pattern)]


def check_patterns(
    by_pattern: Mapping[str, ExpertSettings], names: Iterable[str]
) -> None:
    """Raises ConfigError for patterns that fit none of the names."""
    known = list(names)
    for pattern in by_pattern:
        if not fnmatch.filter(known, pattern):
            raise errors.ConfigError(
                errors.explain(
                    found=f"per_expert has {pattern!r}, which fits no expert",
                    expected="patterns of names of experts of this run",
                    do=errors.did_you_mean(pattern, known),
                )
            )
