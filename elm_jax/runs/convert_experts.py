"""elm_convert: experts with adapters from other programs and to them."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import experts, manifest, original_elm, peft_folders
from elm_jax.data import templates
from elm_jax.model import t5
from elm_jax.peft import adapters, bottleneck, fold
from elm_jax.peft import experts as expert_kinds
from elm_jax.runs import bases, library
from elm_jax.runs.run import Plan, Run
from elm_jax.types import Params


class _Read(NamedTuple):
    """What an import read of one expert."""

    params: Params
    adapter: adapters.AdapterSpec
    pattern: str
    data: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportExperts(Run):
    """What all imports of experts have.

    Attributes:
      source_paths: Folders, or shell patterns of them.
      initial_checkpoint_path: Folder of the base that the experts were trained on.
      experts_dir: Where the experts go, as `<experts_dir>/<name>`.
      expert_name: Name of the result, for one source; by default it is made from the
        folder's name.
      tasks: The training tasks, by whose rows a library knows the experts; by default
        one of the expert's own name.
    """

    source_paths: paths.Patterns
    initial_checkpoint_path: paths.Path
    experts_dir: paths.Path = "{MODEL_DIR}/imported"
    expert_name: paths.OptionalName = ""
    tasks: tuple[str, ...] = ()

    def name_of(self, source: pathlib.Path) -> str:
        """Returns an expert's name by default."""
        return templates.task_name(source.name, None, "").strip("_")

    def read(self, source: pathlib.Path, base: manifest.Manifest) -> _Read:
        """Returns what a folder holds."""
        raise NotImplementedError

    def sources(self) -> dict[str, pathlib.Path]:
        """Returns the folders to read by the names of their experts.

        Raises:
          CheckpointError: A path or pattern names no folder.
          ConfigError: Two folders have one name.
        """
        named = self.source_paths
        found: dict[str, pathlib.Path] = {}
        for pattern in [named] if isinstance(named, str) else named:
            folders = [folder for folder in self.find(pattern) if folder.is_dir()]
            if not folders:
                raise errors.CheckpointError(
                    errors.explain(
                        found=f"no folder matches {self.path(pattern)}",
                        expected="the folder of an expert, or a pattern of several",
                        do="Correct the path",
                    )
                )
            for folder in folders:
                name = self.expert_name or self.name_of(folder)
                if found.setdefault(name, folder) != folder:
                    raise errors.ConfigError(
                        errors.explain(
                            found=f"{folder} and {found[name]} for an expert {name!r}",
                            expected="a name for each",
                            do="Import them one by one with expert_name",
                        )
                    )
        return found

    def plan(self) -> Plan:
        """Returns what would be read and written."""
        found = self.sources()
        return {
            "read": "\n".join(map(str, found.values())),
            "experts": f"{len(found)}: {', '.join(found)}",
            "finished already": sum(self._is_finished(name) for name in found),
            "files": self.path(f"{self.experts_dir}/<name>"),
        }

    def run(self) -> None:
        """Reads, checks and writes what is not there."""
        folder = self.path(self.initial_checkpoint_path)
        base = bases.read_manifest(folder)
        if base.kind != "base":  # an expert in the place of a base has its own
            fingerprint = bases.load_base(folder).fingerprint
            base = dataclasses.replace(base, base_fingerprint=fingerprint)
        for name, source in self.sources().items():
            if self._is_finished(name):
                print(f"finished already: {name}")  # noqa: T201
                continue
            self._save(name, self.read(source, base), base)

    def _is_finished(self, name: str) -> bool:
        folder = self.path(f"{self.experts_dir}/{name}")
        return (folder / manifest.FILE_NAME).is_file()

    def _save(self, name: str, found: _Read, base: manifest.Manifest) -> None:
        folder = self.path(f"{self.experts_dir}/{name}")
        experts.save_expert(
            folder,
            found.params,
            manifest.Manifest(
                name=name,
                kind="prompt",
                base_name=base.name,
                base_fingerprint=base.base_fingerprint,
                model=base.model,
                adapter=bases.describe(found.adapter),
                trainable_pattern=found.pattern,
                tasks=self.tasks or (name,),
                data=found.data,
                versions=manifest.installed_versions(),
                operative_config=self.operative_config(),
            ),
        )
        num_params = trees.count_params(found.params)
        print(f"expert {name} ({num_params:,} parameters): {folder}")  # noqa: T201


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

    def read(self, source: pathlib.Path, base: manifest.Manifest) -> _Read:
        """Returns adapters and layer norms."""
        model = bases.build_model(bases.model_config(base), self.adapter)
        pattern = expert_kinds.PROMPT_EXPERT
        expected, _ = trees.split(t5.param_shapes(model), pattern)
        expert = original_elm.load_elm(source, expected)
        data = {"elm_path": str(source), "elm_task": expert.task}
        return _Read(expert.params, self.adapter, pattern, data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportPeft(ImportExperts):
    """Reads LoRA and (IA)3 folders that PEFT saved; what is in them says the rest."""

    def read(self, source: pathlib.Path, base: manifest.Manifest) -> _Read:
        """Returns the adapters alone."""
        shapes = t5.param_shapes(t5.T5(bases.model_config(base)))
        expert = peft_folders.load_peft(source, shapes)
        spec = bases.spec_from_json(expert.spec, str(source))
        data = {"peft_path": str(source)}
        return _Read(expert.params, spec, expert_kinds.ADAPTERS, data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportPeft(Run):
    """Writes LoRA experts as folders for PEFT, `<export_dir>/<name>`.

    Attributes:
      experts: Folders of experts, or shell patterns of them.
      export_dir: Where the folders go.
      base_model: Name or folder of the base for PEFT's users, such as
        `google/t5-xl-lm-adapt`; "" writes none.
    """

    experts: paths.Patterns
    export_dir: paths.Path = "{MODEL_DIR}/peft"
    base_model: paths.OptionalSource = ""

    def plan(self) -> Plan:
        """Returns what would be read and written."""
        found = library.find_experts(self, self.experts)
        return {
            "experts": f"{len(found)}: {', '.join(f.name for f in found)}",
            "files": self.path(f"{self.export_dir}/<name>"),
        }

    def run(self) -> None:
        """Checks and writes what is not there."""
        for source in library.find_experts(self, self.experts):
            params, info = experts.load_expert(source)
            folder = self.path(f"{self.export_dir}/{info.name}")
            if folder.is_dir():
                print(f"finished already: {folder}")  # noqa: T201
                continue
            if info.adapter is None or info.adapter["kind"] != "lora":
                raise errors.ConfigError(
                    errors.explain(
                        found=f"expert {info.name!r} with adapter {info.adapter}",
                        expected="a LoRA expert",
                        do="Export whole models with gin/t5/export_hf.gin",
                    )
                )
            peft_folders.save_lora(
                folder,
                info.adapter,
                params,
                base=t5.param_shapes(t5.T5(bases.model_config(info))),
                base_name=self.base_model or None,
            )
            print(f"expert {info.name}: {folder}")  # noqa: T201


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
        """Returns what would be read and written."""
        return {
            "read": self.path(self.expert_path),
            "base": self.path(self.initial_checkpoint_path),
            "files": self.path(self.experts_dir),
        }

    def run(self) -> None:
        """Folds, unless the result is there already."""
        source = self.path(self.expert_path)
        info = manifest.read_manifest(source)
        folder = self.path(f"{self.experts_dir}/{info.name}")
        if (folder / manifest.FILE_NAME).is_file():
            print(f"finished already: {folder}")  # noqa: T201
            return
        base = bases.load_base(self.path(self.initial_checkpoint_path))
        spec = bases.adapter_spec(info)
        params, _ = experts.load_expert(source, base_fingerprint=base.fingerprint)
        if spec is None:
            raise errors.ConfigError(
                errors.explain(
                    found=f"expert {info.name!r} without adapters",
                    expected="one with LoRA or (IA)3",
                    do="Export it as it is with gin/t5/export_hf.gin",
                )
            )
        experts.save_expert(
            folder,
            fold.fold(trees.replace(base.params, params), spec),
            dataclasses.replace(
                info,
                adapter=None,
                trainable_pattern=expert_kinds.DATASET_EXPERT,
                data=info.data | {"folded": bases.describe(spec)},
                versions=manifest.installed_versions(),
                operative_config=self.operative_config(),
            ),
        )
        print(f"expert {info.name}: {folder}")  # noqa: T201
