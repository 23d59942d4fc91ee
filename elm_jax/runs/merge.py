"""elm_merge: experts into an expert."""

import dataclasses
from typing import Any

from elm_jax import errors, fields, paths, trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.merging import effects as merging_effects
from elm_jax.merging import methods
from elm_jax.peft import adapters, effects
from elm_jax.runs import bases, library
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

    def plan(self) -> Plan:
        """Returns what would be merged."""
        folders = library.find_experts(self, self.experts)
        return {
            "experts": f"{len(folders)}: {', '.join(f.name for f in folders)}",
            "method": self.method,
            "weights": self.weights or "equal",
            "scale": self.scale,
            "files": self.path(f"{self.experts_dir}/{self.expert_name}"),
        }

    def run(self) -> None:
        """Merges, unless the result is there already."""
        folder = self.path(f"{self.experts_dir}/{self.expert_name}")
        if (folder / manifest.FILE_NAME).is_file():
            print(f"finished already: {folder}")  # noqa: T201
            return
        base = bases.load_base(self.path(self.initial_checkpoint_path))
        folders = library.find_experts(self, self.experts)
        loaded = [
            experts.load_expert(f, base_fingerprint=base.fingerprint) for f in folders
        ]
        infos = [info for _, info in loaded]
        first = infos[0]
        self._check_like(infos)
        merged, adapter = self._merge([params for params, _ in loaded], base, first)
        recipe = {
            "method": self.method,
            "experts": [info.name for info in infos],
            "weights": list(self.weights),
            "scale": self.scale,
        }
        experts.save_expert(
            folder,
            merged,
            dataclasses.replace(
                first,
                name=self.expert_name,
                kind="merged",
                adapter=bases.describe(adapter),
                tasks=tuple(dict.fromkeys(t for info in infos for t in info.tasks)),
                data={"merge": recipe},
                steps=max(info.steps for info in infos),
                versions=manifest.installed_versions(),
                metrics={},
                operative_config=self.operative_config(),
            ),
        )
        print(f"merged {len(loaded)} experts: {folder}")  # noqa: T201

    def _merge(
        self, params: list[Params], base: bases.Base, like: manifest.Manifest
    ) -> tuple[dict[str, Any], adapters.AdapterSpec | None]:
        """Returns the merged expert and its adapters' spec."""
        spec, weights = bases.adapter_spec(like), self.weights or None
        start, scale = None, float(self.scale)
        if methods.METHODS.get(self.method, methods.METHODS["uniform"]).needs_base:
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

    def _check_like(self, infos: list[manifest.Manifest]) -> None:
        kinds = {(i.kind, i.trainable_pattern, str(i.adapter)) for i in infos}
        if len(kinds) > 1:
            raise errors.ConfigError(
                errors.explain(
                    found=f"experts of different kinds: {sorted(map(str, kinds))}",
                    expected="one kind, one trainable pattern, one adapter spec",
                    do="Merge prompt experts with prompt experts, dataset with dataset",
                )
            )
