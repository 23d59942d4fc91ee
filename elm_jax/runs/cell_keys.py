"""What a result row says of how it was scored: in words, and as a hash of everything.

The words are for readers, and tell apart what no table may mix. The hash decides
whether a score that is there already is the one that is asked for.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from elm_jax import errors
from elm_jax.data import token_store
from elm_jax.evaluation import results
from elm_jax.model import decoding_spec
from elm_jax.runs import loaded, scorer, task_data


def protocol(
    dataset: token_store.TokenizedDataset,
    *,
    rows_of: str,
    length_normalized: bool,
    decoding: decoding_spec.DecodingSpec,
    base_dtype: str,
    claimed: str,
) -> str:
    """Returns how a task is scored in words, such as `default` or `elm`.

    First whose choice of rows it is, then what is not as usual: scores by token,
    another decoding than greedy, or a base that is held as `int8`.

    Args:
      dataset: The task's split.
      rows_of: The protocol of the task data.
      length_normalized: Whether a choice's score is divided by its tokens.
      decoding: How tokens are chosen where a task has no choices.
      base_dtype: How the base is held, `T5Config.base_dtype`.
      claimed: What the user says that it is; "" for nothing.

    Raises:
      ConfigError: `claimed` is something else.
    """
    parts = [rows_of or "default"]
    if dataset.has_choices and length_normalized:
        parts.append("length_normalized")
    if not dataset.has_choices and decoding != decoding_spec.GREEDY:
        parts.append(f"{decoding}".replace(" ", ""))
    parts += [base_dtype] if base_dtype else []
    in_words = "+".join(parts)
    if claimed not in ("", in_words):
        raise errors.ConfigError(
            found=f"protocol = {claimed!r} for {dataset.name}",
            expected=f"{in_words!r}, which is how it is scored",
            do="Leave protocol out, and choose rows by task_data.TaskData.protocol",
        )
    return in_words


def scoring(
    dataset: token_store.TokenizedDataset,
    rows: Sequence[int],
    facts: results.Facts,
    *,
    base: loaded.Base,
    data: task_data.OpenedData,
    length_normalized: bool,
    decoding: decoding_spec.DecodingSpec,
) -> str:
    """Returns a hash of what shapes a score beside the parameters: 16 hex digits.

    Args:
      dataset: The task's split.
      rows: The rows that are scored.
      facts: What is known of these.
      base: Whose record of the model says which function the parameters are.
      data: Vocabulary and lengths.
      length_normalized: Whether a choice's score is divided by its tokens.
      decoding: How tokens are chosen where a task has no choices.
    """
    shaped_by: list[Any] = [dataset.fingerprint, list(rows), base.manifest.model]
    if dataset.has_choices:
        shaped_by.append(length_normalized)
    else:  # what is written also depends on its greatest length and its metrics
        shaped_by += [repr(decoding), data.features.targets_length]
        shaped_by += [data.vocabulary.fingerprint, scorer.task_metrics(dataset.name)]
    # Release 0.1 gave what cannot be told apart to the first of its choices.
    if facts.undistinguished:
        shaped_by.append("ties are shared")
    return hashlib.sha256(json.dumps(shaped_by).encode()).hexdigest()[:16]
