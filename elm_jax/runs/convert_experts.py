"""elm_convert: experts with adapters from other programs and to them."""

import dataclasses
import pathlib
from typing import Any

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import (
    manifest,
    original_elm,
    peft_folders,
    recipes,
)
from elm_jax.data import templates
from elm_jax.model import t5
from elm_jax.peft import adapters, bottleneck, expert_parts, fold, lora
from elm_jax.runs import bases, expert_checks, expert_export, loaded
from elm_jax.runs.expert_import import ImportExperts, ReadExpert
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportElmExperts(ImportExperts):
    """Reads prompt experts that the paper's own code saved.

    By default an expert is named after its dataset and prompt, the two folders around
    `adapter_params`.

    Attributes:
      adapter: The shape of their adapters; every tensor is checked against it.
    """

    adapter: bottleneck.Bottleneck

    def name_of(self, source: pathlib.Path) -> str:
        """Returns `<dataset>_<prompt>` for `<dataset>/<prompt>/adapter_params`."""
        if source.name != "adapter_params":
            return super().name_of(source)
        prompt = source.parent
        return templates.task_name(prompt.parent.name, None, prompt.name)

    def read(self, source: pathlib.Path, base: manifest.Manifest) -> ReadExpert:
        """Returns adapters and layer norms."""
        model = bases.build_model(bases.model_config(base), self.adapter)
        trainable_pattern = expert_parts.PROMPT_EXPERT
        expected, _ = trees.split(t5.param_shapes(model), trainable_pattern)
        expert = original_elm.load_elm(source, expected)
        data = {"elm_path": str(source), "elm_task": expert.task}
        return ReadExpert(expert.params, self.adapter, trainable_pattern, data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportPeft(ImportExperts):
    """Reads LoRA and (IA)3 folders that PEFT saved; what is in them says the rest."""

    def read(self, source: pathlib.Path, base: manifest.Manifest) -> ReadExpert:
        """Returns the adapters alone."""
        shapes = t5.param_shapes(t5.T5(bases.model_config(base)))
        expert = peft_folders.load_peft(source, shapes)
        spec = bases.spec_from_json(expert.spec, str(source))
        data = {"peft_path": str(source)}
        return ReadExpert(expert.params, spec, expert_parts.ADAPTERS, data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportPeft(expert_export.ExportExperts):
    """Writes LoRA experts as folders for PEFT, `<export_dir>/<name>`."""

    export_dir: paths.Path = "{MODEL_DIR}/peft"

    def check_expert(self, info: manifest.Manifest) -> adapters.AdapterSpec:
        """Returns the adapters of a LoRA expert."""
        return expert_export.spec_of_kind(info, lora.Lora, "a LoRA expert")

    def save(
        self,
        folder: pathlib.Path,
        expert: loaded.Expert,
        spec: adapters.AdapterSpec,
        recipe: dict[str, Any],
    ) -> None:
        """Writes what `peft.PeftModel.from_pretrained` loads."""
        peft_folders.save_lora(
            folder,
            dataclasses.asdict(spec),
            expert.params,
            base=t5.param_shapes(t5.T5(expert.config)),
            base_name=self.base_model or None,
            recipe=recipe,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldExpert(Run):
    """Adds a LoRA or (IA)3 expert into its base: a whole model without adapters.

    Attributes:
      expert_path: Folder of the expert.
      initial_checkpoint_path: Folder of its base.
      experts_dir: Where the result goes, as `<experts_dir>/<name>`.
    """

    expert_path: paths.Path
    initial_checkpoint_path: paths.Path
    experts_dir: paths.Path = "{MODEL_DIR}/folded"

    def plan(self) -> Plan:
        """Returns what would be read and written; reads manifests.

        Raises:
          ElmError: As `run` before it reads parameters.
        """
        info, _, recipe = self._look()
        return {
            "read": self.path(self.expert_path),
            "base": self.path(self.initial_checkpoint_path),
            "finished already": self._is_finished(info, recipe),
            "files": self._folder(info),
        }

    def run(self) -> None:
        """Folds, unless the same result is there already.

        Raises:
          CheckpointError: Another result is there.
          ConfigError: The expert has no adapters.
          FingerprintError: It belongs to another base.
        """
        info, spec, recipe = self._look()
        if self._is_finished(info, recipe):
            print(f"finished already: {self._folder(info)}")  # noqa: T201
            return
        base = loaded.Base.load(self.path(self.initial_checkpoint_path))
        expert = loaded.Expert.load(self.path(self.expert_path))
        folded = fold.fold(base.with_expert(expert), spec)
        whole = dataclasses.replace(
            info,
            adapter=None,
            trainable_pattern=expert_parts.DATASET_EXPERT,
            data=info.data | recipe,
            versions=manifest.installed_versions(),
            operative_config=self.operative_config(),
        )
        was_saved = recipes.make_once(
            lambda: loaded.Expert(folded, whole).save(self._folder(info)),
            lambda: self._is_finished(info, recipe),
        )
        done = f"expert {info.name}" if was_saved else "finished already"
        print(f"{done}: {self._folder(info)}")  # noqa: T201

    def _look(
        self,
    ) -> tuple[manifest.Manifest, adapters.AdapterSpec, dict[str, Any]]:
        """Returns the expert's manifest and adapters, and the result's recipe."""
        info = manifest.read_manifest(self.path(self.expert_path))
        base = bases.read_manifest(self.path(self.initial_checkpoint_path))
        expert_checks.check_joins(info, base)
        spec = bases.adapter_spec(info)
        if spec is None:
            raise errors.ConfigError(
                found=f"expert {info.name!r} without adapters",
                expected="one with LoRA or (IA)3",
                do="Export it as it is with gin/t5/export_hf.gin",
            )
        expert_checks.check_tensors(self.path(self.expert_path), base)
        recipe = {"folded": info.adapter, "folded_from": info.fingerprint}
        return info, spec, recipe

    def _folder(self, info: manifest.Manifest) -> pathlib.Path:
        return self.path(f"{self.experts_dir}/{info.name}")

    def _is_finished(self, info: manifest.Manifest, recipe: dict[str, Any]) -> bool:
        folder = self._folder(info)
        if not (folder / manifest.FILE_NAME).is_file():
            return False
        saved_info = manifest.read_manifest(folder)
        saved = {name: saved_info.data.get(name) for name in recipe}
        requested = dict(recipe)
        if saved["folded"] and saved["folded_from"] is None:
            print("a fold of release 0.1: its expert is compared by name")  # noqa: T201
            del saved["folded_from"], requested["folded_from"]
        recipes.check_same(
            f"folded expert {folder}",
            saved
            | {"base": saved_info.base_fingerprint, "adapter": saved_info.adapter},
            requested | {"base": info.base_fingerprint, "adapter": None},
        )
        return True
