"""What can be scored: the base, experts, and merges of experts, as parameters."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from elm_jax import trees
from elm_jax.checkpoints.manifest import Manifest, read_manifest
from elm_jax.evaluation import naming
from elm_jax.merging import methods
from elm_jax.peft import adapters
from elm_jax.runs import bases, expert_checks, loaded
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Parameters that are put on the base to be scored.

    Attributes:
      name: What result rows call it.
      folders: The experts in it: none for the base, several for a uniform merge.
      kind: The expert's own, `base`, or `strategy` for what was chosen for a task.
    """

    name: str
    folders: tuple[pathlib.Path, ...] = ()
    kind: str = "base"

    @functools.cached_property
    def fingerprint(self) -> str:
        """The identity of its experts, 16 hex digits; "" for the base."""
        found = sorted(info.fingerprint for info in self.manifests)
        if len(found) < 2:
            return "".join(found)
        return hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]

    @functools.cached_property
    def manifests(self) -> tuple[Manifest, ...]:
        """The manifests of its experts, read once."""
        return tuple(read_manifest(folder) for folder in self.folders)

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of its first expert; None for the base."""
        return self.manifests[0] if self.manifests else None

    def facts(self, beside: pathlib.Path) -> dict[str, Any]:
        """Returns what result rows tell of it, beside its name.

        Args:
          beside: The folder to which the expert's is told.
        """
        infos = self.manifests
        # A merge's manifest has the seed of its first expert.
        seeds = {None if info.kind == "merged" else info.seed for info in infos}
        source = ""
        if len(self.folders) == 1:
            relative = os.path.relpath(self.folders[0], beside)
            source = pathlib.Path(relative).as_posix()
        return {
            "kind": self.kind,
            "source": source,
            "training_seed": seeds.pop() if len(seeds) == 1 else None,
            "recipe": infos[0].recipe if len(infos) == 1 else "",
        }

    def adapter(self) -> adapters.AdapterSpec | None:
        """Returns the adapters that its experts need."""
        info = self.manifest
        return None if info is None else bases.adapter_spec(info)

    def params(self, base: loaded.Base) -> Params:
        """Returns the whole model's parameters: the base's, the experts' over them.

        Raises:
          CheckpointError: An expert does not fit the base's shape.
          ConfigError: Experts that are to be merged are not alike.
          FingerprintError: An expert belongs to another base.
        """
        if not self.folders:
            return base.params
        expert_checks.check_alike(self.manifests)
        parts = [loaded.Expert.load(folder) for folder in self.folders]
        for part in parts:
            base.check_fits(part)
        if len(parts) == 1:
            return base.with_expert(parts[0])
        merged = methods.merge("uniform", [part.params for part in parts])
        return trees.replace(base.params, merged)


def of_experts(folders: Sequence[pathlib.Path]) -> list[Candidate]:
    """Returns each expert as a candidate under its own name.

    Raises:
      ConfigError: An expert is named as a strategy is, so that their rows would be
        taken for each other's.
    """
    found: list[Candidate] = []
    for folder in folders:
        info = read_manifest(folder)
        naming.check_is_no_label(info.name, info.kind, folder)
        found.append(Candidate(info.name, (folder,), info.kind))
    return found
