"""elm_convert: weights of other programs to bases."""

import dataclasses

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest, t5x
from elm_jax.model import config, t5
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportT5X(Run):
    """Reads a T5X checkpoint, legacy or Orbax, into a base at `{MODEL_DIR}`.

    Attributes:
      t5x_path: The checkpoint's folder, such as `checkpoint_1000000`.
      model: The model's shape; every tensor is checked against it.
      base_name: Name of the base.
    """

    t5x_path: str
    model: config.T5Config
    base_name: str

    def plan(self) -> Plan:
        """Returns what would be read and written."""
        shapes = t5.param_shapes(t5.T5(self.model))
        return {
            "read": self.path(self.t5x_path),
            "parameters": f"{trees.count_params(shapes):,}",
            "files": self.path("{MODEL_DIR}"),
        }

    def run(self) -> None:
        """Reads, checks and writes; does nothing if the base is there."""
        folder = self.path("{MODEL_DIR}") / self.base_name
        if (folder / manifest.FILE_NAME).is_file():
            print(f"finished already: {folder}")  # noqa: T201
            return
        source = self.path(self.t5x_path)
        if not source.is_dir():
            raise errors.CheckpointError(
                errors.explain(
                    found=f"no folder {source}",
                    expected="a T5X checkpoint, such as .../checkpoint_1000000",
                    do="Correct the path, or copy the checkpoint to this machine first",
                )
            )
        params, step = t5x.load_t5x(source)
        shapes = t5.param_shapes(t5.T5(self.model))
        experts.check_same_tensors(params, shapes, of=str(source))
        fingerprint = trees.fingerprint(params)
        experts.save_expert(
            folder,
            params,
            manifest.Manifest(
                name=self.base_name,
                kind="base",
                base_name=self.base_name,
                base_fingerprint=fingerprint,
                model=dataclasses.asdict(self.model),
                trainable_pattern=".*",
                data={"t5x_path": str(source)},
                steps=step,
                versions=manifest.installed_versions(),
                operative_config=self.operative_config(),
            ),
        )
        print(f"base {self.base_name} ({fingerprint}): {folder}")  # noqa: T201
