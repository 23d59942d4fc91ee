"""elm_merge: experts into an expert."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from elm_jax import fields, paths, trees
from elm_jax.checkpoints import manifest, recipes
from elm_jax.evaluation import naming
from elm_jax.merging import effects as merging_effects
from elm_jax.merging import methods
from elm_jax.peft import adapters, effects
from elm_jax.runs import bases, expert_checks, library, loaded
from elm_jax.runs.run import Plan, Run
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge(Run):
    """Merges experts of one base and kind into `<experts_dir>/<expert_name>`.

    Averages are of parameters, the paper's way for adapters too. Task arithmetic adds
    up what experts change: whole models' differences from the base, and adapters'
    effects, whose base is an adapter that adds nothing. The sum of n LoRAs or
    bottlenecks is n times as wide (`peft.effects` has the definitions); experts whose
    weight is 0 take no place in it.

    Attributes:
      experts: Folders of experts, or shell patterns of them.
      expert_name: Name of the result.
      initial_checkpoint_path: Folder of the base.
      experts_dir: Where the result goes.
      method: A name in `merging.methods.METHODS`.
      weights: One per expert in the order of `experts`; empty for equal ones.
      scale: Factor on the differences from the base, for methods that take one.
    """

    experts: tuple[paths.Pattern, ...]
    expert_name: paths.Name
    initial_checkpoint_path: paths.Path
    experts_dir: paths.Path = "{MODEL_DIR}/merged"
    method: str = "uniform"
    weights: tuple[fields.Finite, ...] = ()
    scale: fields.Finite = 1.0

    def check(self) -> None:
        """Raises ConfigError if the result would be called as a strategy is."""
        naming.check_is_no_label(self.expert_name, "merged")

    def plan(self) -> Plan:
        """Returns what would be merged; reads manifests.

        Raises:
          ElmError: As `run` before it reads parameters.
        """
        folders = library.find_experts(self, self.experts)
        infos = self._read_infos(folders)
        return {
            "experts": f"{len(folders)}: {', '.join(f.name for f in folders)}",
            "method": self.method,
            "weights": self.weights or "equal",
            "scale": self.scale,
            "finished already": self._is_finished(infos),
            "files": self._folder,
        }

    def run(self) -> None:
        """Merges, unless the same merge is there already, or is by then.

        Raises:
          CheckpointError: Another merge is there under this name.
          ElmError: Experts do not fit each other, the base or the method.
        """
        folders = library.find_experts(self, self.experts)
        infos = self._read_infos(folders)
        if self._is_finished(infos):
            print(f"finished already: {self._folder}")  # noqa: T201
            return
        base = loaded.Base.load(self.path(self.initial_checkpoint_path))
        parts = [loaded.Expert.load(folder) for folder in folders]
        first = infos[0]
        merged, adapter = self._merge([part.params for part in parts], base, first)
        info = dataclasses.replace(
            first,
            name=self.expert_name,
            kind="merged",
            adapter=bases.describe(adapter),
            tasks=tuple(dict.fromkeys(t for info in infos for t in info.tasks)),
            data={"merge": self._recipe(infos)},
            steps=max(info.steps for info in infos),
            versions=manifest.installed_versions(),
            vocabulary=next((i.vocabulary for i in infos if i.vocabulary), {}),
            training={},
            metrics={},
            operative_config=self.operative_config(),
        )
        is_own = recipes.make_once(
            lambda: loaded.Expert(merged, info).save(self._folder),
            lambda: self._is_finished(infos),
        )
        done = f"merged {len(parts)} experts" if is_own else "finished already"
        print(f"{done}: {self._folder}")  # noqa: T201

    @property
    def _folder(self) -> pathlib.Path:
        return self.path(f"{self.experts_dir}/{self.expert_name}")

    def _recipe(self, infos: list[manifest.Manifest]) -> dict[str, Any]:
        """Returns all that decides what comes out."""
        return {
            "method": self.method,
            "experts": [info.name for info in infos],
            "fingerprints": [info.fingerprint for info in infos],
            "weights": list(self.weights),
            "scale": self.scale,
        }

    def _is_finished(self, infos: list[manifest.Manifest]) -> bool:
        """Returns whether this very merge is there.

        Raises:
          CheckpointError: Another one is.
        """
        if not (self._folder / manifest.FILE_NAME).is_file():
            return False
        there = manifest.read_manifest(self._folder)
        before, now = dict(there.data.get("merge", {})), self._recipe(infos)
        if before and "fingerprints" not in before:
            print("a merge of release 0.1: its experts are compared by name")  # noqa: T201
            del now["fingerprints"]
        recipes.check_same(
            f"merge {self._folder}",
            before | {"base": there.base_fingerprint},
            now | {"base": infos[0].base_fingerprint},
            do="Undo the change, choose another expert_name, or remove the folder",
        )
        return True

    def _read_infos(self, folders: list[pathlib.Path]) -> list[manifest.Manifest]:
        """Returns the experts' manifests, if experts, base and method fit.

        Raises:
          ConfigError: The method is unknown, or the experts are of several kinds or
            vocabularies.
          FingerprintError: An expert is of another base.
        """
        infos = [manifest.read_manifest(folder) for folder in folders]
        methods.check_options(
            self.method,
            len(infos),
            weights=self.weights or None,
            scale=float(self.scale),
        )
        base = bases.read_manifest(self.path(self.initial_checkpoint_path))
        for folder, info in zip(folders, infos, strict=True):
            bases.check_fits(info, base)
            expert_checks.check_same_function(info, base)
            expert_checks.check_tensors(folder, base)
        expert_checks.check_alike(infos, base)
        return infos

    def _merge(
        self, params: Sequence[Params], base: loaded.Base, like: manifest.Manifest
    ) -> tuple[dict[str, Any], adapters.AdapterSpec | None]:
        """Returns the merged expert and its adapters' spec."""
        spec, weights = bases.adapter_spec(like), self.weights or None
        start, scale = None, float(self.scale)
        if methods.METHODS[self.method].needs_base:
            start = trees.split(base.params, like.trainable_pattern)[0]
        if start is None or spec is None:
            merged = methods.merge(
                self.method, params, weights=weights, base=start, scale=scale
            )
            return merged, spec
        merged, count = merging_effects.task_arithmetic(
            params,
            weights=weights,
            base=trees.join(start, effects.neutral(params[0])),
            scale=scale,
            beside=effects.beside(params[0]),
        )
        return merged, effects.repeated(spec, count)
