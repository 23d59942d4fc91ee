"""LoRAs of several ranks and scales, written in one spec before they are merged."""

import dataclasses
from collections.abc import Sequence

from elm_jax.checkpoints import manifest
from elm_jax.merging.method import MergeMethod
from elm_jax.peft import effects, lora
from elm_jax.runs import bases, expert_checks, loaded


def infos_in_one_spec(
    method: MergeMethod, infos: Sequence[manifest.Manifest]
) -> list[manifest.Manifest]:
    """Returns manifests of which all tell the spec that `in_one_spec` writes in.

    Raises:
      ConfigError: LoRAs have different targets.
    """
    specs = [bases.adapter_spec(info) for info in infos]
    ranked = [spec for spec in specs if isinstance(spec, lora.Lora)]
    if not method.on_effects or len(ranked) < len(infos) or len({*ranked}) == 1:
        return [*infos]
    return expert_checks.in_one_spec(infos)


def in_one_spec(
    method: MergeMethod, parts: Sequence[loaded.Expert]
) -> list[loaded.Expert]:
    """Returns experts whose LoRAs do the same with one rank and scale.

    Only for a method that merges the products of LoRAs' matrices; the mean of two
    matrices of different ranks has no meaning.

    Args:
      method: How they will be merged.
      parts: The experts.

    Raises:
      ConfigError: LoRAs have different targets.
    """
    infos = infos_in_one_spec(method, [part.manifest for part in parts])
    widened = []
    for part, info in zip(parts, infos, strict=True):
        spec, common_spec = part.adapter, bases.adapter_spec(info)
        params = part.params
        if spec is not None and common_spec is not None:
            params = effects.widened(params, spec, to=common_spec)
        widened.append(dataclasses.replace(part, params=params, manifest=info))
    return widened
