"""Which parameters make an expert, by name pattern.

Patterns are regular expressions, searched in `/`-joined names.
"""

from typing import Any

from elm_jax import errors, trees
from elm_jax.limits import patterns
from elm_jax.types import Params

# Everything that an adapter of any kind adds lies below a key that ends so.
ADAPTERS = r"_adapter/"

# Every layer norm, the final ones included: what BitFit has left to train in a model
# without biases.
NORMS = r"_norm/scale$"

# The paper's prompt expert.
PROMPT_EXPERT = rf"{ADAPTERS}|{NORMS}"

# Everything.
DATASET_EXPERT = r".*"

PARTS = {
    "adapters_and_norms": PROMPT_EXPERT,
    "adapters": ADAPTERS,
    "norms": NORMS,
    "all": DATASET_EXPERT,
}


def trainable_pattern(name: str) -> str:
    """Returns the pattern of the parameters that an expert consists of.

    >>> trainable_pattern("all")
    '.*'

    Raises:
      ConfigError: There is no such name.
    """
    if name not in PARTS:
        raise errors.ConfigError(
            found=f"expert parts {name!r}",
            expected=f"one of {', '.join(PARTS)}",
            do=errors.did_you_mean(name, PARTS),
        )
    return PARTS[name]


def split(params: Params, pattern: str) -> tuple[Params, Params]:
    """Returns what trains and what stays, as `trees.split` does.

    Raises:
      ConfigError: Nothing would train, such as where LoRA targets a projection that
        the model has not.
    """
    trained, frozen = trees.split(params, pattern)
    if not trained:
        raise errors.ConfigError(
            found=f"no parameter of the model that fits {pattern!r}",
            expected="at least one that trains",
            do="Correct the adapter's targets: a gated feed-forward block has"
            " wi_0 and wi_1, a plain one has wi",
        )
    return trained, frozen


def part(params: Params, pattern: str, *, of: str) -> dict[str, Any]:
    """Returns the part of a model's parameters that an expert consists of.

    Args:
      params: All of the model's; only their names count.
      pattern: From the expert's manifest, and so perhaps a stranger's.
      of: Whose it is, for the message.

    Raises:
      CheckpointError: The pattern is no regular expression, or takes too much.
    """
    try:
        names = patterns.found_in(pattern, trees.flatten(params))
    except patterns.PatternError as error:
        raise errors.CheckpointError(
            found=f"{of} with the trainable_pattern {pattern!r:.100}, which is"
            f" {error.reason}",
            expected=f"a pattern such as {', '.join(PARTS.values())}",
            do="Copy or train the expert again",
        ) from error
    return trees.select(params, names)[0]
