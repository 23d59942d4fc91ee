"""elm_convert: experts with bottleneck adapters to torch's programs and from them."""

import dataclasses
import pathlib
from typing import Any, Literal

import numpy as np

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import (
    adapterhub_folders,
    huggingface,
    manifest,
    streaming,
    tensors,
    torch_bottleneck,
)
from elm_jax.model import config, t5
from elm_jax.peft import adapters, bottleneck, expert_parts
from elm_jax.runs import bases, expert_export, expert_import, loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportBottleneck(expert_export.ExportExperts):
    """Writes bottleneck experts for transformers, with a file that loads them.

    `<export_dir>/<name>` holds the weights (adapters and layer norms), settings, and
    `elm_expert.py`, which needs torch and transformers only and puts them on a T5.
    """

    export_dir: paths.Path = "{MODEL_DIR}/torch"

    def check_expert(self, info: manifest.Manifest) -> adapters.AdapterSpec:
        """Returns the adapters of an expert with bottlenecks."""
        return _bottlenecks(info)

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
            model=config.recorded(expert.config),
            facts={
                "name": info.name,
                "base_name": info.base_name,
                "base_model": self.base_model or None,
                **expert_export.base_told(info),
            },
            recipe=recipe,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportAdapterHub(expert_import.ImportExperts):
    """Reads bottleneck adapters of T5 that AdapterHub's package `adapters` saved.

    Those of DoubleSeqBnConfig (Houlsby) and its like are read, with any scale, widths
    and layers left out. Adapters that compute what none of ours can, such as those of
    SeqBnConfig (Pfeiffer), which in T5 read the residual stream as well, are refused.
    Layer norms that an export of ours has put beside them are read, too.
    """

    def read(
        self, source: pathlib.Path, base: manifest.Manifest
    ) -> expert_import.ReadExpert:
        """Returns the adapters, and the layer norms beside them."""
        shapes = t5.param_shapes(t5.T5(bases.model_config(base)))
        expert = adapterhub_folders.load(source, shapes, self._base_head)
        spec = bases.spec_from_json(expert.spec, str(source))
        has_norms = expert.has_norms
        trainable_pattern = (
            expert_parts.PROMPT_EXPERT if has_norms else expert_parts.ADAPTERS
        )
        data = {"adapterhub_path": str(source)}
        return expert_import.ReadExpert(expert.params, spec, trainable_pattern, data)

    def _base_head(self) -> np.ndarray:
        """Returns the base's matrix of logits [vocabulary, model width]."""
        folder = self.path(self.initial_checkpoint_path)
        leaves, info = streaming.open_expert(folder)
        if bases.model_config(info).logits_via_embedding:
            return tensors.read(leaves[huggingface.EMBEDDING])
        return tensors.read(leaves[huggingface.LOGITS]).T


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportAdapterHub(expert_export.ExportExperts):
    """Writes bottleneck experts for AdapterHub's package `adapters`.

    `model.load_adapter(folder, use_safetensors=True)` reads them.

    Attributes:
      layer_norms: What becomes of an expert's layer norms, for which `adapters` has no
        place: "refuse" such experts; or write them "beside", as
        layer_norms.safetensors, which people have to load into the model themselves.
    """

    export_dir: paths.Path = "{MODEL_DIR}/adapterhub"
    layer_norms: Literal["refuse", "beside"] = "refuse"

    def check_expert(self, info: manifest.Manifest) -> adapters.AdapterSpec:
        """Returns the adapters of an expert that `adapters` can compute."""
        spec = _bottlenecks(info)
        model = bases.build_model(bases.model_config(info), spec)
        shapes = t5.param_shapes(model)
        adapterhub_folders.check_can_save(dataclasses.asdict(spec), shapes)
        label = f"expert {info.name!r}"
        parts = expert_parts.part(shapes, info.trainable_pattern, of=label)
        has_norms = any(name.endswith("_norm/scale") for name in trees.flatten(parts))
        if has_norms and self.layer_norms == "refuse":
            raise errors.ConfigError(
                found=f"{label} with layer norms of its own",
                expected="adapters alone, which is what `adapters` loads",
                do="Export it for transformers with gin/t5/export_bottleneck.gin; or"
                " set ExportAdapterHub.layer_norms = 'beside' and load them too; or"
                " train with expert_parts = 'adapters'",
            )
        return spec

    def save(
        self,
        folder: pathlib.Path,
        expert: loaded.Expert,
        spec: adapters.AdapterSpec,
        recipe: dict[str, Any],
    ) -> None:
        """Writes settings and weights, and layer norms beside them."""
        adapterhub_folders.save(
            folder,
            dataclasses.asdict(spec),
            expert.params,
            base=t5.param_shapes(t5.T5(expert.config)),
            name=expert.name,
            base_name=self.base_model,
            recipe=recipe,
        )
        norms = folder / adapterhub_folders.NORMS
        if norms.is_file():
            print(f"to be loaded besides the adapter: {norms}")  # noqa: T201


def _bottlenecks(info: manifest.Manifest) -> bottleneck.Bottleneck:
    return expert_export.spec_of_kind(
        info, bottleneck.Bottleneck, "an expert with bottleneck adapters"
    )
