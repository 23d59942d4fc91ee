"""What all exports of experts to other programs have."""

import dataclasses
import pathlib
from typing import Any

from elm_jax import errors, paths
from elm_jax.checkpoints import experts, manifest, recipes
from elm_jax.model import t5
from elm_jax.peft import adapters, expert_parts
from elm_jax.runs import bases, library, loaded
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportExperts(Run):
    """Fields of all exports of experts.

    Attributes:
      experts: Folders of experts, or shell patterns of them.
      export_dir: Where the folders go, as `<export_dir>/<name>`.
      base_model: Name or folder of the base for the other program's users, such as
        `google/t5-xl-lm-adapt`; "" writes none.
    """

    experts: paths.Patterns
    export_dir: paths.Path = "{MODEL_DIR}/exported"
    base_model: paths.OptionalSource = ""

    def check_expert(self, info: manifest.Manifest) -> adapters.AdapterSpec:
        """Returns the adapters of an expert that can be written so.

        Raises:
          ConfigError: This format cannot hold the expert.
          CheckpointError: Its manifest is wrong.
        """
        raise NotImplementedError

    def save(
        self,
        folder: pathlib.Path,
        expert: loaded.Expert,
        spec: adapters.AdapterSpec,
        recipe: dict[str, Any],
    ) -> None:
        """Writes one expert's folder, with its recipe."""
        raise NotImplementedError

    def plan(self) -> Plan:
        """Returns what would be read and written; compares what is there already.

        Raises:
          CheckpointError: As `run`, of exports that are there.
          ConfigError: As `run`.
        """
        folders = library.find_experts(self, self.experts)
        infos = [manifest.read_manifest(folder) for folder in folders]
        for info in infos:
            self.check_expert(info)
        return {
            "experts": f"{len(folders)}: {', '.join(f.name for f in folders)}",
            "finished already": sum(map(self._is_finished, infos)),
            "files": self.path(f"{self.export_dir}/<name>"),
        }

    def run(self) -> None:
        """Checks and writes what is not there.

        Raises:
          CheckpointError: Another export is there under a name, or an expert's tensors
            are not those that its manifest tells.
          ConfigError: An expert cannot be written so.
        """
        for source in library.find_experts(self, self.experts):
            info = manifest.read_manifest(source)
            spec, folder = self.check_expert(info), self._folder(info)
            if self._is_finished(info):
                print(f"finished already: {folder}")  # noqa: T201
                continue
            expert = loaded.Expert.load(source)
            _check_tensors(expert)
            was_saved = recipes.make_once(
                lambda: self.save(folder, expert, spec, self._recipe(info)),  # noqa: B023
                lambda: self._is_finished(info),  # noqa: B023
            )
            done = f"expert {info.name}" if was_saved else "finished already"
            print(f"{done}: {folder}")  # noqa: T201
            if info.base_dtype:
                print(_note(info))  # noqa: T201

    def _folder(self, info: manifest.Manifest) -> pathlib.Path:
        return self.path(f"{self.export_dir}/{info.name}")

    def _recipe(self, info: manifest.Manifest) -> dict[str, Any]:
        made_of = {"name": info.name, "fingerprint": info.fingerprint}
        return made_of | base_told(info) | {"base_model": self.base_model}

    def _is_finished(self, info: manifest.Manifest) -> bool:
        folder = self._folder(info)
        if not folder.exists():
            return False
        saved_recipe = recipes.read(recipes.inside(folder))
        recipes.check_same(f"export {folder}", saved_recipe, self._recipe(info))
        return True


def base_told(info: manifest.Manifest) -> dict[str, Any]:
    """Returns what exports of an expert say of how its base is held; {} for "".

    As a recipe's field, by which an import knows it again.
    """
    return {"base_dtype": info.base_dtype} if info.base_dtype else {}


def spec_of_kind(
    info: manifest.Manifest, kind: type[adapters.AdapterSpec], expected: str
) -> Any:
    """Returns the adapters of an expert.

    Args:
      info: The expert's manifest.
      kind: What they have to be.
      expected: What they have to be, in words.

    Raises:
      ConfigError: They are of another kind, or there are none.
      CheckpointError: The manifest tells none that can be.
    """
    spec = bases.adapter_spec(info)
    if not isinstance(spec, kind):
        raise errors.ConfigError(
            found=f"expert {info.name!r} with adapter {info.adapter}",
            expected=expected,
            do="Export LoRA with gin/t5/export_peft.gin, bottlenecks with"
            " gin/t5/export_bottleneck.gin, whole models with gin/t5/export_hf.gin",
        )
    return spec


def _note(info: manifest.Manifest) -> str:
    return (
        f"expert {info.name} was trained on {info.base_name} held as"
        f" {info.base_dtype}: another program that holds it in floats computes another"
        " function with it"
    )


def _check_tensors(expert: loaded.Expert) -> None:
    """Raises CheckpointError unless an expert has the tensors of its manifest."""
    label, trainable_pattern = (
        f"expert {expert.name!r}",
        expert.manifest.trainable_pattern,
    )
    model = bases.build_model(expert.config, expert.adapter)
    shapes = expert_parts.part(t5.param_shapes(model), trainable_pattern, of=label)
    experts.check_same_tensors(expert.params, shapes, of=label)
