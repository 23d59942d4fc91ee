"""Merging experts from Python, as `elm_merge` does."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from elm_jax import paths, trees
from elm_jax.evaluation import naming
from elm_jax.merging import methods
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import loaded, merged_params


def merge_experts(
    experts: Sequence[loaded.Expert],
    base: loaded.Base,
    *,
    name: str,
    method: MergeMethod | str = "uniform",
    **options: Any,
) -> loaded.Expert:
    """Returns the expert that several are together.

    Args:
      experts: One or more of one base, of one kind and with like adapters.
      base: Their base.
      name: The name of the result.
      method: A merge method, or the name of one, such as `uniform`, the mean of
        parameters, or `task_arithmetic`.
      **options: Of the method that is named, such as `scale`.

    Raises:
      CheckpointError: An expert does not fit the base.
      ConfigError: The experts are not alike, or a name or an option is wrong.
      FingerprintError: An expert is of another base.
    """
    naming.check_is_no_label(paths.check_name(name, of="an expert"), "merged")
    chosen = methods.of(method, **options) if isinstance(method, str) else method
    merged = merged_params.merged_expert(chosen, experts, base, name=name)
    # As when it is saved, so that a merge of it knows the same expert.
    info = dataclasses.replace(
        merged.manifest, params_fingerprint=trees.fingerprint(merged.params)
    )
    return dataclasses.replace(merged, manifest=info)
