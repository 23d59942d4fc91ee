"""elm_convert: experts with bottleneck adapters to torch's programs and from them."""

import dataclasses
import pathlib
from typing import Any

from elm_jax import paths
from elm_jax.checkpoints import manifest, torch_bottleneck
from elm_jax.peft import adapters, bottleneck
from elm_jax.runs import expert_export, loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportBottleneck(expert_export.ExportExperts):
    """Writes bottleneck experts for transformers, with a file that loads them.

    `<export_dir>/<name>` holds the weights (adapters and layer norms), settings, and
    `elm_expert.py`, which needs torch and transformers only and puts them on a T5.
    """

    export_dir: paths.Path = "{MODEL_DIR}/torch"

    def check_expert(self, info: manifest.Manifest) -> adapters.AdapterSpec:
        """Returns the adapters of an expert with bottlenecks."""
        return expert_export.spec_of_kind(
            info, bottleneck.Bottleneck, "an expert with bottleneck adapters"
        )

    def save(
        self,
        folder: pathlib.Path,
        expert: loaded.Expert,
        spec: adapters.AdapterSpec,
        recipe: dict[str, Any],
    ) -> None:
        """Writes weights, settings and loader."""
        info = expert.manifest
        torch_bottleneck.save(
            folder,
            dataclasses.asdict(spec),
            expert.params,
            model=dataclasses.asdict(expert.config),
            facts={
                "name": info.name,
                "base_name": info.base_name,
                "base_model": self.base_model or None,
            },
            recipe=recipe,
        )
