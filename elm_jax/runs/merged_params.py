"""Experts that are merged by a method into one, which is in memory."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from elm_jax import trees
from elm_jax.checkpoints import digests, manifest
from elm_jax.merging import averages, combining
from elm_jax.merging.method import NOTHING, Merged, MergeMethod, Statistics
from elm_jax.peft import adapters, effects, expert_parts
from elm_jax.runs import (
    bases,
    expert_card,
    expert_checks,
    loaded,
    measuring,
    merged_card,
    merged_leaves,
    merged_ranks,
    not_finite,
)

# Options of methods that all merges had up to release 0.1.
OPTIONS_BEFORE: dict[str, Any] = {"weights": (), "scale": 1.0}


def of_folders(
    method: MergeMethod,
    folders: Sequence[pathlib.Path],
    base: loaded.Base,
    *,
    name: str,
    operative_config: str = "",
    source: measuring.Source | None = None,
) -> loaded.Expert:
    """Returns the expert that a method makes of experts on disk.

    Those of a running mean are read one at a time, others all at once.

    Args:
      method: The merge method.
      folders: Of the experts, one or more.
      base: What they are of.
      name: Of the result.
      operative_config: Text of the configuration that asked for it.
      source: Where statistics come from, for a method that needs some.

    Raises:
      CheckpointError: One is missing, damaged, or does not fit the base.
      ConfigError: They are not alike, or cannot be merged so.
      FingerprintError: One is of another base or vocabulary.
    """
    if not isinstance(method, averages.RunningMean):
        parts = [loaded.Expert.load(folder) for folder in folders]
        return merged_expert(
            method,
            parts,
            base,
            name=name,
            operative_config=operative_config,
            source=source,
        )
    infos = [manifest.read_manifest(folder) for folder in folders]
    method.check(len(infos))
    expert_checks.check_alike(infos)
    mean = combining.RunningMean()
    for folder in _by_fingerprint(folders, infos):
        part = loaded.Expert.load(folder)
        base.check_fits(part)
        combining.check_given(f"expert {part.name!r} in {folder}", part.params)
        mean.add(part.params)
    info = new_manifest(method, infos, name, operative_config=operative_config)
    return _with_card(mean.mean(), info, method)


def _by_fingerprint(
    folders: Sequence[pathlib.Path], infos: Sequence[manifest.Manifest]
) -> list[pathlib.Path]:
    """Returns folders in the order in which `RunningMean` adds up trees in memory."""

    def mark(place: int) -> str:
        recorded = digests.recorded_fingerprint(infos[place])  # not of release 0.1
        return recorded or trees.fingerprint(loaded.Expert.load(folders[place]).params)

    return [folders[place] for place in sorted(range(len(folders)), key=mark)]


def merged_expert(
    method: MergeMethod,
    parts: Sequence[loaded.Expert],
    base: loaded.Base,
    *,
    name: str,
    operative_config: str = "",
    source: measuring.Source | None = None,
) -> loaded.Expert:
    """Returns the expert that a method makes of experts in memory.

    Args:
      method: The merge method.
      parts: The experts, one or more.
      base: What they are of.
      name: Of the result.
      operative_config: Text of the configuration that asked for it.
      source: Where statistics come from, for a method that needs some.

    Raises:
      CheckpointError: One does not fit the base.
      ConfigError: They are not alike, or cannot be merged so.
      FingerprintError: One is of another base or vocabulary.
    """
    infos = [part.manifest for part in parts]
    method.check(len(infos))
    measuring.check(method, source)
    merged_leaves.check_names(method, trees.flatten(parts[0].params))
    for part in parts:
        base.check_fits(part)
    statistics: Sequence[Statistics] = ()
    if method.needs_statistics and source is not None:
        statistics = source.measure(method, parts, base)
    by_label = {
        not_finite.label(part, number, len(parts)): trees.flatten(part.params)
        for number, part in enumerate(parts, start=1)
    }
    parts = merged_ranks.in_one_spec(method, parts)
    expert_checks.check_alike([part.manifest for part in parts])
    with not_finite.naming(method, by_label):
        merged, adapter = _merge(method, parts, base, statistics)
    info = new_manifest(
        method, infos, name, operative_config=operative_config, source=source
    )
    merge_facts = {"merge_facts": dict(merged.facts)} if merged.facts else {}
    info = dataclasses.replace(
        info, adapter=bases.describe(adapter), data=info.data | merge_facts
    )
    return _with_card(merged.params, info, method)


def _with_card(
    params: dict[str, Any], info: manifest.Manifest, method: MergeMethod
) -> loaded.Expert:
    card_text = merged_card.text(info, method).encode()
    return loaded.Expert(params, info, {expert_card.FILE_NAME: card_text})


def new_manifest(
    method: MergeMethod,
    infos: Sequence[manifest.Manifest],
    name: str,
    *,
    operative_config: str,
    source: measuring.Source | None = None,
) -> manifest.Manifest:
    """Returns the manifest of a merge whose adapters are those of its experts.

    It has no fingerprint of parameters, which who writes them adds.

    Args:
      method: How they are merged.
      infos: Manifests of the experts.
      name: Of the result.
      operative_config: Text of the configuration that asked for it.
      source: Where statistics come from, for a method that needs some.
    """
    return dataclasses.replace(
        infos[0],
        name=name,
        kind="merged",
        tasks=tuple(dict.fromkeys(t for info in infos for t in info.tasks)),
        data={"merge": recipe(method, infos, source)},
        licences={t: licence for info in infos for t, licence in info.licences.items()},
        steps=max(info.steps for info in infos),
        versions=manifest.installed_versions(),
        vocabulary=next((i.vocabulary for i in infos if i.vocabulary), {}),
        training={},
        params_fingerprint="",
        digests={},
        metrics={},
        operative_config=operative_config,
    )


def with_recipe(info: manifest.Manifest, facts: Mapping[str, Any]) -> manifest.Manifest:
    """Returns the manifest of a merge with more facts in its recipe."""
    data = dict(info.data)
    return dataclasses.replace(info, data=data | {"merge": {**data["merge"], **facts}})


def recipe(
    method: MergeMethod,
    infos: Sequence[manifest.Manifest],
    source: measuring.Source | None = None,
) -> dict[str, Any]:
    """Returns all that decides what a merge is: method, options, experts and rows."""
    options = method.recipe()
    parts = [info.data.get("merge") for info in infos]
    measured = {}
    if method.needs_statistics and source is not None:
        measured = {"measured": source.recipe(method, infos)}
    return {
        "method": options.pop("method"),
        "experts": [info.name for info in infos],
        "fingerprints": [info.fingerprint for info in infos],
        "recipes": [info.recipe for info in infos],
        "seeds": [info.training_seed for info in infos],
        **({"parts": parts} if any(parts) else {}),
        # Merges that are there have them, whatever their method is.
        **OPTIONS_BEFORE,
        **options,
        **measured,
    }


def start_of(expert: loaded.Expert, base: loaded.Base) -> dict[str, Any]:
    """Returns what an expert's parameters start from, float32, but for its adapters'.

    A base has no adapters: what theirs start from is one that adds nothing.
    """
    subject, pattern = f"expert {expert.name!r}", expert.manifest.trainable_pattern
    start = trees.as_float32(expert_parts.part(base.params, pattern, of=subject))
    if expert.adapter is None:
        return start
    return trees.join(start, effects.neutral(expert.params))


def _merge(
    method: MergeMethod,
    parts: Sequence[loaded.Expert],
    base: loaded.Base,
    statistics: Sequence[Statistics],
) -> tuple[Merged, adapters.AdapterSpec | None]:
    """Returns what was merged, and the spec of its adapters."""
    like, params = parts[0], [part.params for part in parts]
    spec, beside, start = like.adapter, NOTHING, None
    if spec is not None and (method.needs_base or method.knows_adapters):
        beside = effects.beside(params[0])
    if method.needs_base:
        start = start_of(like, base)
    merged = method.merge(params, base=start, beside=beside, statistics=statistics)
    if spec is None or merged.num_beside == 1 and not merged.rank:
        return merged, spec
    return merged, effects.repeated(spec, merged.num_beside, merged.rank)
