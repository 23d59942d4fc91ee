"""elm_convert: experts with adapters from other programs and to them."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import (
    experts,
    manifest,
    original_elm,
    peft_folders,
    recipes,
)
from elm_jax.data import templates
from elm_jax.evaluation import naming
from elm_jax.model import t5
from elm_jax.peft import adapters, bottleneck, fold
from elm_jax.peft import experts as expert_kinds
from elm_jax.runs import bases, expert_checks, library, loaded
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
    tasks: tuple[paths.Name, ...] = ()

    def check(self) -> None:
        """Raises ConfigError if the expert would be called as a strategy is."""
        naming.check_is_no_label(self.expert_name, "prompt")

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
          ConfigError: Two folders have one name, or one has none that an expert may
            have.
        """
        named = self.source_paths
        found: dict[str, pathlib.Path] = {}
        for pattern in [named] if isinstance(named, str) else named:
            folders = [folder for folder in self.find(pattern) if folder.is_dir()]
            if not folders:
                raise errors.CheckpointError(
                    found=f"no folder matches {self.path(pattern)}",
                    expected="the folder of an expert, or a pattern of several",
                    do="Correct the path",
                )
            for folder in folders:
                name = paths.check_name(
                    self.expert_name or self.name_of(folder),
                    of=f"the expert in {folder}",
                    do="Import it with expert_name",
                )
                if found.setdefault(name, folder) != folder:
                    raise errors.ConfigError(
                        found=f"{folder} and {found[name]} for an expert {name!r}",
                        expected="a name for each",
                        do="Import them one by one with expert_name",
                    )
        return found

    def plan(self) -> Plan:
        """Returns what would be read and written; compares what is there already.

        Raises:
          CheckpointError: As `run`, of experts that are there.
        """
        found = self.sources()
        finished = [name for name in found if self._is_finished(name)]
        if finished:
            base = self._base()
            for name in finished:
                read = self.read(found[name], base)
                self._check_same(self._manifest(name, read, base), read)
        return {
            "read": "\n".join(map(str, found.values())),
            "experts": f"{len(found)}: {', '.join(found)}",
            "finished already": len(finished),
            "files": self.path(f"{self.experts_dir}/<name>"),
        }

    def run(self) -> None:
        """Reads and checks all; writes what is not there, compares what is.

        Raises:
          CheckpointError: A source cannot be read, or another expert is there under a
            name.
        """
        base = self._base()
        for name, source in self.sources().items():
            found = self.read(source, base)
            if not self._import(name, found, self._manifest(name, found, base)):
                print(f"finished already: {name}")  # noqa: T201
                continue
            place = self._folder(name)
            num_params = trees.count_params(found.params)
            print(f"expert {name} ({num_params:,} parameters): {place}")  # noqa: T201

    def _import(self, name: str, found: _Read, info: manifest.Manifest) -> bool:
        """Returns whether the expert was saved here; else the same one is there."""

        def is_same() -> bool:
            if not self._is_finished(name):
                return False
            self._check_same(info, found)
            return True

        return not is_same() and recipes.make_once(
            lambda: loaded.Expert(found.params, info).save(self._folder(name)), is_same
        )

    def _base(self) -> manifest.Manifest:
        return bases.read_manifest(self.path(self.initial_checkpoint_path))

    def _folder(self, name: str) -> pathlib.Path:
        return self.path(f"{self.experts_dir}/{name}")

    def _is_finished(self, name: str) -> bool:
        return (self._folder(name) / manifest.FILE_NAME).is_file()

    def _check_same(self, asked: manifest.Manifest, found: _Read) -> None:
        """Raises CheckpointError if the expert that is there is another one."""
        folder = self._folder(asked.name)
        there = manifest.read_manifest(folder)
        own = there.params_fingerprint  # "" in what release 0.1 saved
        own = own or trees.fingerprint(experts.load_expert(folder)[0])
        recipes.check_same(
            f"expert {folder}",
            _identity(there) | {"weights": own},
            _identity(asked) | {"weights": trees.fingerprint(found.params)},
            do="Name another expert_name or experts_dir for this one, or remove the"
            " folder to import it anew",
        )

    def _manifest(
        self, name: str, found: _Read, base: manifest.Manifest
    ) -> manifest.Manifest:
        return manifest.Manifest(
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
            vocabulary=base.vocabulary,
            operative_config=self.operative_config(),
        )


def _identity(info: manifest.Manifest) -> dict[str, Any]:
    """Returns what must not differ between two imports of one expert."""
    return {
        "base": info.base_fingerprint,
        "tasks": list(info.tasks),
        "adapter": info.adapter,
        "parts": info.trainable_pattern,
    }


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
        """Returns what would be read and written; compares what is there already.

        Raises:
          CheckpointError: As `run`, of exports that are there.
        """
        found = library.find_experts(self, self.experts)
        infos = [manifest.read_manifest(folder) for folder in found]
        return {
            "experts": f"{len(found)}: {', '.join(f.name for f in found)}",
            "finished already": sum(map(self._is_finished, infos)),
            "files": self.path(f"{self.export_dir}/<name>"),
        }

    def run(self) -> None:
        """Checks and writes what is not there.

        Raises:
          CheckpointError: Another export is there under a name.
          ConfigError: An expert is no LoRA.
        """
        for source in library.find_experts(self, self.experts):
            expert = loaded.Expert.load(source)
            info, folder = expert.manifest, self._folder(expert.manifest)
            if self._is_finished(info):
                print(f"finished already: {folder}")  # noqa: T201
                continue
            if info.adapter is None or info.adapter["kind"] != "lora":
                raise errors.ConfigError(
                    found=f"expert {info.name!r} with adapter {info.adapter}",
                    expected="a LoRA expert",
                    do="Export whole models with gin/t5/export_hf.gin",
                )
            done = f"expert {info.name}"
            done = done if self._save(expert) else "finished already"
            print(f"{done}: {folder}")  # noqa: T201

    def _save(self, expert: loaded.Expert) -> bool:
        """Writes an expert; returns False if another process wrote the same."""
        info, params = expert.manifest, expert.params
        spec = dict(info.adapter or {})
        return recipes.make_once(
            lambda: peft_folders.save_lora(
                self._folder(info),
                spec,
                params,
                base=t5.param_shapes(t5.T5(bases.model_config(info))),
                base_name=self.base_model or None,
                recipe=self._recipe(info),
            ),
            lambda: self._is_finished(info),
        )

    def _folder(self, info: manifest.Manifest) -> pathlib.Path:
        return self.path(f"{self.export_dir}/{info.name}")

    def _recipe(self, info: manifest.Manifest) -> dict[str, Any]:
        made_of = {"name": info.name, "fingerprint": info.fingerprint}
        return made_of | {"base_model": self.base_model}

    def _is_finished(self, info: manifest.Manifest) -> bool:
        folder = self._folder(info)
        if not folder.exists():
            return False
        there = recipes.read(recipes.inside(folder))
        recipes.check_same(f"export {folder}", there, self._recipe(info))
        return True


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
            trainable_pattern=expert_kinds.DATASET_EXPERT,
            data=info.data | recipe,
            versions=manifest.installed_versions(),
            operative_config=self.operative_config(),
        )
        is_own = recipes.make_once(
            lambda: loaded.Expert(folded, whole).save(self._folder(info)),
            lambda: self._is_finished(info, recipe),
        )
        done = f"expert {info.name}" if is_own else "finished already"
        print(f"{done}: {self._folder(info)}")  # noqa: T201

    def _look(
        self,
    ) -> tuple[manifest.Manifest, adapters.AdapterSpec, dict[str, Any]]:
        """Returns the expert's manifest and adapters, and the result's recipe."""
        info = manifest.read_manifest(self.path(self.expert_path))
        base = bases.read_manifest(self.path(self.initial_checkpoint_path))
        bases.check_fits(info, base)
        spec = bases.adapter_spec(info)
        if spec is None:
            raise errors.ConfigError(
                found=f"expert {info.name!r} without adapters",
                expected="one with LoRA or (IA)3",
                do="Export it as it is with gin/t5/export_hf.gin",
            )
        expert_checks.check_same_function(info, base)
        expert_checks.check_tensors(self.path(self.expert_path), base)
        recipe = {"folded": info.adapter, "folded_from": info.fingerprint}
        return info, spec, recipe

    def _folder(self, info: manifest.Manifest) -> pathlib.Path:
        return self.path(f"{self.experts_dir}/{info.name}")

    def _is_finished(self, info: manifest.Manifest, recipe: dict[str, Any]) -> bool:
        folder = self._folder(info)
        if not (folder / manifest.FILE_NAME).is_file():
            return False
        there = manifest.read_manifest(folder)
        before = {name: there.data.get(name) for name in recipe}
        now = dict(recipe)
        if before["folded"] and before["folded_from"] is None:
            print("a fold of release 0.1: its expert is compared by name")  # noqa: T201
            del before["folded_from"], now["folded_from"]
        recipes.check_same(
            f"folded expert {folder}",
            before | {"base": there.base_fingerprint, "adapter": there.adapter},
            now | {"base": info.base_fingerprint, "adapter": None},
        )
        return True
