"""Merging experts from Python, as `elm_merge` does."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from elm_jax import errors, paths, trees
from elm_jax.evaluation import naming
from elm_jax.merging import methods
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import loaded, merge_recipes, merged_params


def merge_experts(
    experts: Sequence[loaded.Expert],
    base: loaded.Base,
    *,
    name: str,
    method: MergeMethod | str | Mapping[str, Any] = "uniform",
    **options: Any,
) -> loaded.Expert:
    """Returns the expert that several are together.

    Args:
      experts: One or more of one base, of one kind and with like adapters.
      base: The base of all these experts.
      name: The name of the result.
      method: A merge method, or the name of one, such as `uniform`, the mean of
        parameters, or `task_arithmetic`; or the recipe of a merge of these experts,
        `manifest.data["merge"]`, which gives the same bits again
        with the same versions. Methods that need statistics are refused here.
      **options: Of the method that is named, such as `scale`.

    Raises:
      CheckpointError: An expert does not fit the base.
      ConfigError: The experts are not alike, or not those of the recipe, or a name or
        an option is wrong.
      FingerprintError: An expert is of another base.
    """
    naming.check_is_no_label(paths.check_name(name, of="an expert"), "merged")
    if options and not isinstance(method, str):
        raise errors.ConfigError(
            found=f"options {', '.join(options)} beside a method that has its own",
            expected="options of a method that is named",
            do="Give the method these options, or its name",
        )
    if isinstance(method, str):
        chosen = methods.of(method, **options)
    elif isinstance(method, Mapping):
        infos = [expert.manifest for expert in experts]
        chosen = merge_recipes.method_of(method, infos)
    else:
        chosen = method
    if chosen.needs_statistics:
        raise errors.ConfigError(
            found=f"{chosen.name}, for which experts have to be measured",
            expected="a method without statistics: no argument names rows here",
            do="Merge with elm_merge --gin_file=gin/pocket/merge_by_data.gin and load"
            " the result by elm_jax.Expert.load; or take a method without statistics",
        )
    merged = merged_params.merged_expert(chosen, experts, base, name=name)
    # As when it is saved, so that a merge of it knows the same expert.
    info = dataclasses.replace(
        merged.manifest, params_fingerprint=trees.fingerprint(merged.params)
    )
    return dataclasses.replace(merged, manifest=info)
