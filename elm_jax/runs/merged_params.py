"""Experts in memory that are merged by a method into one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from elm_jax import trees
from elm_jax.checkpoints import manifest
from elm_jax.merging.method import NOTHING, MergeMethod
from elm_jax.peft import adapters, effects, expert_parts
from elm_jax.runs import bases, expert_checks, loaded

# Options of methods that all merges had up to release 0.3.
OPTIONS_BEFORE: dict[str, Any] = {"weights": (), "scale": 1.0}


def merged_expert(
    method: MergeMethod,
    parts: Sequence[loaded.Expert],
    base: loaded.Base,
    *,
    name: str,
    operative_config: str = "",
) -> loaded.Expert:
    """Returns the expert that a method makes of experts.

    Args:
      method: How.
      parts: The experts, one or more.
      base: What they are of.
      name: Of the result.
      operative_config: Text of the configuration that asked for it.

    Raises:
      CheckpointError: One does not fit the base.
      ConfigError: They are not alike, or cannot be merged so.
      FingerprintError: One is of another base or vocabulary.
    """
    infos = [part.manifest for part in parts]
    method.check(len(infos))
    for part in parts:
        base.check_fits(part)
    expert_checks.check_alike(infos)
    params, adapter = _merge(method, parts, base)
    info = dataclasses.replace(
        infos[0],
        name=name,
        kind="merged",
        adapter=bases.describe(adapter),
        tasks=tuple(dict.fromkeys(t for info in infos for t in info.tasks)),
        data={"merge": recipe(method, infos)},
        steps=max(info.steps for info in infos),
        versions=manifest.installed_versions(),
        vocabulary=next((i.vocabulary for i in infos if i.vocabulary), {}),
        training={},
        metrics={},
        operative_config=operative_config,
    )
    return loaded.Expert(params, info)


def recipe(method: MergeMethod, infos: Sequence[manifest.Manifest]) -> dict[str, Any]:
    """Returns all that decides what a merge is: method, options and experts."""
    options = method.recipe()
    return {
        "method": options.pop("method"),
        "experts": [info.name for info in infos],
        "fingerprints": [info.fingerprint for info in infos],
        # Merges that are there have them, whatever their method is.
        **OPTIONS_BEFORE,
        **options,
    }


def _merge(
    method: MergeMethod, parts: Sequence[loaded.Expert], base: loaded.Base
) -> tuple[dict[str, Any], adapters.AdapterSpec | None]:
    """Returns merged parameters, and the spec of their adapters."""
    like, params = parts[0], [part.params for part in parts]
    spec, beside = like.adapter, NOTHING
    if not method.needs_base:
        return method.merge(params).params, spec
    of, pattern = f"expert {like.name!r}", like.manifest.trainable_pattern
    start = expert_parts.part(base.params, pattern, of=of)
    if spec is not None:
        # A base has no adapters: what theirs start from is one that adds nothing.
        start = trees.join(start, effects.neutral(params[0]))
        beside = effects.beside(params[0])
    merged = method.merge(params, base=start, beside=beside)
    return merged.params, spec and effects.repeated(spec, merged.num_beside)
