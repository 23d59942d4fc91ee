"""Which parameters make an expert, by name pattern.

Patterns are for `trees.split`, which searches them in `/`-joined names.
"""

from elm_jax import errors

# Adapters and every layer norm, the final ones included.
PROMPT_EXPERT = r"_adapter/|_norm/scale$"

# Everything.
DATASET_EXPERT = r".*"

TRAINABLE = {"prompt": PROMPT_EXPERT, "dataset": DATASET_EXPERT}


def trainable_pattern(kind: str) -> str:
    """Returns the pattern of the parameters that an expert of a kind consists of.

    >>> trainable_pattern("dataset")
    '.*'

    Raises:
      ConfigError: There is no such kind.
    """
    if kind not in TRAINABLE:
        raise errors.ConfigError(
            errors.explain(
                found=f"expert kind {kind!r}",
                expected=f"one of {', '.join(TRAINABLE)}",
                do=errors.did_you_mean(kind, TRAINABLE),
            )
        )
    return TRAINABLE[kind]
