"""Merges from disk to disk, leaf by leaf where the method can."""

import dataclasses
import functools
import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from elm_jax import trees
from elm_jax.checkpoints import resumable
from elm_jax.merging import averages
from elm_jax.merging.method import MergeMethod
from elm_jax.peft import effects
from elm_jax.runs import (
    bases,
    loaded,
    measuring,
    merge_sources,
    merged_card,
    merged_leaves,
    merged_params,
)
from elm_jax.runs.progress import Progress
from elm_jax.runs.training import card


def write(
    method: MergeMethod,
    folders: Sequence[pathlib.Path],
    base_dir: pathlib.Path,
    final: pathlib.Path,
    *,
    name: str,
    operative_config: str = "",
    source: measuring.Source | None = None,
    told: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes the expert that a method makes of experts on disk.

    Methods that need no more than a part of a leaf at a time hold that part of each
    expert in memory, and a few more; a killed merge goes on where it was. For others,
    experts and base are read whole.

    Args:
      method: How.
      folders: Of the experts, one or more, which fit each other and the base.
      base_dir: Folder of the base.
      final: Where the result goes.
      name: Of the result.
      operative_config: Text of the configuration that asked for it.
      source: Where statistics come from, for a method that needs some.
      told: What the recipe tells besides, such as how coefficients were found.

    Raises:
      ExistsError: There is something already.
      CheckpointError: An expert is damaged, or the place cannot be written.
      ConfigError: The experts cannot be merged so.
    """
    sources = merge_sources.open_sources(method, folders)
    # Those of several ranks are written in one spec first.
    is_one_spec = (
        len({json.dumps(s.info.adapter, sort_keys=True) for s in sources}) == 1
    )
    if not is_one_spec or not merged_leaves.can_merge(method, sources[0].info):
        base = loaded.Base.load(base_dir)
        made = merged_params.of_folders(
            method,
            folders,
            base,
            name=name,
            operative_config=operative_config,
            source=source,
        )
        info = merged_params.with_recipe(made.manifest, told)
        dataclasses.replace(made, manifest=info).save(final)
        return
    measuring.check(method, source)
    statistics = []
    if method.needs_statistics and source is not None:
        asked = [
            measuring.Measured(
                each.info, each.mark, functools.partial(loaded.Expert.load, folder)
            )
            for each, folder in zip(sources, folders, strict=True)
        ]
        statistics = source.open(method, asked, base_dir)
    infos = [each.info for each in sources]
    info = merged_params.new_manifest(
        method, infos, name, operative_config=operative_config, source=source
    )
    info = merged_params.with_recipe(info, told)
    if not isinstance(method, averages.RunningMean):
        spec = bases.adapter_spec(info)
        if spec is not None:
            layout = merged_leaves.layout(method, sources)
            spec = effects.repeated(spec, *layout)
        info = dataclasses.replace(info, adapter=bases.describe(spec))
    start = merge_sources.open_base(base_dir) if method.needs_base else {}
    facts: dict[str, float] = {}
    leaves = merged_leaves.merged(method, sources, start, statistics, facts)
    marks = [source.mark for source in sources]
    # What another release has left may be of other formulas.
    made_of = [name, info.base_fingerprint, info.data, marks, info.versions]
    total = trees.count_bytes(trees.unflatten(leaves))
    resumable.save_expert(
        final,
        leaves,
        info,
        recipe=json.dumps(made_of, sort_keys=True),
        on_bytes=Progress("merge", total=total, unit="bytes"),
        attached={card.FILE_NAME: merged_card.text(info, method).encode()},
        told={"merge_facts": facts},
    )
