"""What can be scored: the base, experts, and merges of experts, as parameters."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

from elm_jax import trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.merging import methods
from elm_jax.model import t5
from elm_jax.peft import adapters
from elm_jax.runs import bases
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Parameters that are put on the base to be scored.

    Attributes:
      name: What result rows call it.
      folders: The experts in it: none for the base, several for a uniform merge.
    """

    name: str
    folders: tuple[pathlib.Path, ...] = ()

    def fingerprint(self) -> str:
        """Returns a hash of the experts' manifests, 16 hex digits; "" for the base.

        A manifest tells of one training, so this is cheap also for large experts.
        """
        if not self.folders:
            return ""
        digest = hashlib.sha256()
        for folder in sorted(self.folders):
            digest.update((folder / manifest.FILE_NAME).read_bytes())
        return digest.hexdigest()[:16]

    def manifest(self) -> manifest.Manifest | None:
        """Returns the manifest of its first expert; None for the base."""
        return manifest.read_manifest(self.folders[0]) if self.folders else None

    def adapter(self) -> adapters.AdapterSpec | None:
        """Returns the adapters that its experts need."""
        info = self.manifest()
        return None if info is None else bases.adapter_spec(info)

    def params(self, base: bases.Base) -> Params:
        """Returns the whole model's parameters: the base's, the experts' over them.

        Raises:
          CheckpointError: An expert does not fit the base's shape.
          FingerprintError: An expert belongs to another base.
        """
        if not self.folders:
            return base.params
        shapes = t5.param_shapes(bases.build_model(base.config, self.adapter()))
        parts = [_load(folder, base, shapes) for folder in self.folders]
        part = parts[0] if len(parts) == 1 else methods.merge("uniform", parts)
        return trees.replace(base.params, part)


def _load(folder: pathlib.Path, base: bases.Base, shapes: Params) -> Params:
    info = manifest.read_manifest(folder)
    expected, _ = trees.split(shapes, info.trainable_pattern)
    params, _ = experts.load_expert(
        folder, base_fingerprint=base.fingerprint, expected=expected
    )
    return params


def of_experts(folders: Sequence[pathlib.Path]) -> list[Candidate]:
    """Returns each expert as a candidate under its own name."""
    return [Candidate(manifest.read_manifest(f).name, (f,)) for f in folders]
