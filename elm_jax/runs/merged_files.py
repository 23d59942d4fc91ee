"""Merges from disk to disk, leaf by leaf where the method can."""

import dataclasses
import functools
import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from elm_jax import trees
from elm_jax.checkpoints import manifest, resumable
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import averages
from elm_jax.merging.method import MergeMethod
from elm_jax.peft import effects
from elm_jax.runs import (
    bases,
    expert_card,
    loaded,
    measuring,
    merge_sources,
    merged_card,
    merged_leaves,
    merged_params,
    not_finite,
)
from elm_jax.runs.merge_sources import Source
from elm_jax.runs.progress import Progress


def write(
    method: MergeMethod,
    folders: Sequence[pathlib.Path],
    base_dir: pathlib.Path,
    final: pathlib.Path,
    *,
    name: str,
    operative_config: str = "",
    source: measuring.Source | None = None,
    search_facts: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes the expert that a method makes of experts on disk.

    Methods that need no more than a part of a leaf at a time hold that part of each
    expert in memory, and a few more; a killed merge goes on where it was. For others,
    experts and base are read whole.

    Args:
      method: The merge method.
      folders: Of the experts, one or more, which fit each other and the base.
      base_dir: Folder of the base.
      final: Where the result goes.
      name: Of the result.
      operative_config: Text of the configuration that asked for it.
      source: Where statistics come from, for a method that needs some.
      search_facts: More facts for the recipe, such as how coefficients were found.

    Raises:
      ExistsError: There is something already.
      CheckpointError: An expert is damaged, or the place cannot be written.
      ConfigError: The experts cannot be merged so.
    """
    sources = merge_sources.open_sources(method, folders)
    if _can_stream(method, sources):
        statistics = _statistics(method, sources, folders, base_dir, source)
        info = merged_params.new_manifest(
            method,
            [part.info for part in sources],
            name,
            operative_config=operative_config,
            source=source,
        )
        info = merged_params.with_recipe(info, search_facts)
        experts = {
            f"expert {part.info.name!r} in {folder}": part.leaves
            for part, folder in zip(sources, folders, strict=True)
        }
        with not_finite.naming(method, experts):
            _write_parts(method, sources, base_dir, final, info, statistics)
        return
    expert = merged_params.of_folders(
        method,
        folders,
        loaded.Base.load(base_dir),
        name=name,
        operative_config=operative_config,
        source=source,
    )
    info = merged_params.with_recipe(expert.manifest, search_facts)
    dataclasses.replace(expert, manifest=info).save(final)


def _can_stream(method: MergeMethod, sources: Sequence[Source]) -> bool:
    """Returns whether parts of experts can be merged as they are on disk."""
    # LoRAs of several ranks and scales are written in one spec first.
    specs = {json.dumps(part.info.adapter, sort_keys=True) for part in sources}
    return len(specs) == 1 and merged_leaves.can_merge(method, sources[0].info)


def _statistics(
    method: MergeMethod,
    sources: Sequence[Source],
    folders: Sequence[pathlib.Path],
    base_dir: pathlib.Path,
    source: measuring.Source | None,
) -> Sequence[Mapping[str, Leaf]]:
    """Returns what was measured with each expert; nothing if the method needs nothing.

    Raises:
      ConfigError: The method needs some, and there is no source of them.
    """
    measuring.check(method, source)
    if not method.needs_statistics or source is None:
        return []
    experts = [
        measuring.Measured(
            part.info, part.mark, functools.partial(loaded.Expert.load, folder)
        )
        for part, folder in zip(sources, folders, strict=True)
    ]
    return source.open(method, experts, base_dir)


def _write_parts(
    method: MergeMethod,
    sources: Sequence[Source],
    base_dir: pathlib.Path,
    final: pathlib.Path,
    info: manifest.Manifest,
    statistics: Sequence[Mapping[str, Leaf]],
) -> None:
    """Writes a merge part by part, and continues a killed one."""
    if not isinstance(method, averages.RunningMean):
        spec = bases.adapter_spec(info)
        if spec is not None:
            spec = effects.repeated(spec, *merged_leaves.layout(method, sources))
        info = dataclasses.replace(info, adapter=bases.describe(spec))
    start = merge_sources.open_base(base_dir) if method.needs_base else {}
    facts: dict[str, float] = {}
    leaves = merged_leaves.merged(method, sources, start, statistics, facts)
    marks = [part.mark for part in sources]
    # What another release has left may be of other formulas.
    made_of = [info.name, info.base_fingerprint, info.data, marks, info.versions]
    total = trees.count_bytes(trees.unflatten(leaves))
    resumable.save_expert(
        final,
        leaves,
        info,
        recipe=json.dumps(made_of, sort_keys=True),
        on_bytes=Progress("merge", total=total, unit="bytes"),
        attached={expert_card.FILE_NAME: merged_card.text(info, method).encode()},
        leaf_facts={"merge_facts": facts},
    )
