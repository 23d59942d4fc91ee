"""What may differ from expert to expert in one training."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from elm_jax import errors, fields, paths
from elm_jax.training import optimizers

_Optimizer = optimizers.AdamW | optimizers.Adafactor


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertSettings:
    """Values for some experts of a run; None leaves what the run says.

    The run checks them, and names the pattern that they are for.

    Attributes:
      train_steps: Updates.
      learning_rate: Rate at its highest.
      warmup_steps: Steps of the rise from 0.
      decay: `linear` or `constant`, for AdamW.
      random_seed: The seed of initialisation, batches and dropout.
      max_examples: Cap per task; 0 for all.
    """

    train_steps: fields.Count | None = None
    learning_rate: fields.NotNegative | None = None
    warmup_steps: fields.CountOrNone | None = None
    decay: Literal["linear", "constant"] | None = None
    random_seed: fields.Seed | None = None
    max_examples: fields.CountOrNone | None = None


_OF_OPTIMIZER = ("learning_rate", "warmup_steps", "decay")


def merge(
    by_pattern: Mapping[str, ExpertSettings], name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of the run and of its optimiser that an expert changes.

    >>> merge({"a*": ExpertSettings(train_steps=5, decay="linear")}, "ab")
    ({'train_steps': 5}, {'decay': 'linear'})

    Args:
      by_pattern: Settings by pattern of names; later ones win over earlier.
      name: The expert's.
    """
    run: dict[str, Any] = {}
    optimizer: dict[str, Any] = {}
    for pattern, settings in by_pattern.items():
        if paths.fitting(pattern, [name]):
            for field, value in dataclasses.asdict(settings).items():
                if value is not None:
                    (optimizer if field in _OF_OPTIMIZER else run)[field] = value
    return run, optimizer


def optimizer_of(
    run_optimizer: _Optimizer, changes: Mapping[str, Any], name: str
) -> _Optimizer:
    """Returns a run's optimiser with what an expert changes of it.

    Args:
      run_optimizer: The run's.
      changes: New values by field, as `merge` gives them.
      name: The expert's, for messages.

    Raises:
      ConfigError: A value is wrong, or the run's optimiser has no such field.
    """
    settable = {field.name for field in dataclasses.fields(run_optimizer)}
    odd = sorted(changes.keys() - settable)
    if odd:
        kind = type(run_optimizer).__name__
        raise errors.ConfigError(
            found=f"per_expert sets {', '.join(odd)} of expert {name!r}",
            expected=f"settings that {kind} has",
            do=f"Leave out {', '.join(odd)}, or choose another optimizer",
        )
    try:
        return dataclasses.replace(run_optimizer, **changes)
    except errors.ConfigError as error:
        raise errors.ConfigError(f"per_expert of expert {name!r}: {error}") from error


def check_patterns(
    by_pattern: Mapping[str, ExpertSettings], names: Iterable[str]
) -> None:
    """Raises ConfigError for patterns that fit none of the names."""
    expert_names = list(names)
    for pattern in by_pattern:
        if not paths.fitting(pattern, expert_names):
            raise errors.ConfigError(
                found=f"per_expert has {pattern!r}, which fits no expert",
                expected="patterns of names of experts of this run",
                do=errors.did_you_mean(pattern, expert_names),
            )
