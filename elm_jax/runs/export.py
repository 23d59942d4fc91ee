"""elm_convert: bases, dataset experts and merged experts to other programs, whole."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from elm_jax import errors, fields, paths, trees
from elm_jax.checkpoints import (
    experts,
    huggingface_export,
    manifest,
    streaming,
    t5x_export,
    tensors,
)
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.model import t5
from elm_jax.runs import bases, convert
from elm_jax.runs.progress import Progress, show_bytes
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Run):
    """What all exports of a whole model have.

    Attributes:
      expert_path: Folder of a base, a dataset expert or a merged expert.
      initial_checkpoint_path: Folder of its base; needed only by an expert that holds
        a part of the parameters, such as norms, and is joined with the rest.
      storage_dtype: Of the written weights; `source` keeps bfloat16 and float32.
    """

    expert_path: paths.Path
    initial_checkpoint_path: paths.Path | None = None
    storage_dtype: convert.StorageDtype = "source"

    def target(self, info: manifest.Manifest) -> pathlib.Path:
        """Returns the folder to write."""
        raise NotImplementedError

    def save(
        self,
        folder: pathlib.Path,
        leaves: Mapping[str, Leaf],
        info: manifest.Manifest,
        dtype: np.dtype,
    ) -> None:
        """Writes the folder."""
        raise NotImplementedError

    def plan(self) -> Plan:
        """Returns what would be read and written; reads metadata only."""
        source = self.path(self.expert_path)
        plan: Plan = {"read": source, "storage dtype": self.storage_dtype}
        if not source.is_dir():
            return plan | convert.sizes(self, None, self.storage_dtype)
        leaves, info = self._open()
        sizes = convert.sizes(self, leaves, self.storage_dtype)
        return plan | {"files": self.target(info)} | sizes

    def run(self) -> None:
        """Checks and writes; does nothing if the folder is there."""
        leaves, info = self._open()
        folder = self.target(info)
        if folder.is_dir():
            print(f"finished already: {folder}")  # noqa: T201
            return
        dtype = tensors.storage_dtype(leaves, self.storage_dtype)
        self.save(folder, leaves, info, dtype)
        size = show_bytes(trees.count_params(leaves) * dtype.itemsize)
        print(f"{info.kind} {info.name} ({size}): {folder}")  # noqa: T201

    def progress(self, leaves: Mapping[str, Leaf], dtype: np.dtype) -> Progress:
        """Returns the progress over the bytes that will be written."""
        total = trees.count_params(leaves) * dtype.itemsize
        return Progress("export", total=total, unit="bytes")

    def _open(self) -> tuple[dict[str, Leaf], manifest.Manifest]:
        leaves, info = streaming.open_expert(self.path(self.expert_path))
        if info.adapter is not None:
            raise errors.CheckpointError(
                errors.explain(
                    found=f"{info.kind} expert {info.name!r} with adapters: "
                    f"{info.adapter}",
                    expected="a whole model without adapters",
                    do="Export LoRA and (IA)3 experts to PEFT's format",
                )
            )
        if self.initial_checkpoint_path is not None:
            folder = self.path(self.initial_checkpoint_path)
            base, base_info = streaming.open_expert(folder)
            bases.check_fits(info, base_info)
            leaves = dict(sorted((base | leaves).items()))
        shapes = t5.param_shapes(t5.T5(bases.model_config(info)))
        experts.check_same_tensors(leaves, shapes, of=f"{info.kind} {info.name!r}")
        return leaves, info


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportHuggingFace(Export):
    """Writes a folder that `T5ForConditionalGeneration.from_pretrained` loads.

    Attributes:
      export_dir: Where `<name>` goes.
      max_shard_bytes: Above it there are several files and an index.
    """

    export_dir: paths.Path = "{MODEL_DIR}/huggingface"
    max_shard_bytes: fields.Bytes = 5_000_000_000

    def target(self, info: manifest.Manifest) -> pathlib.Path:
        """Returns `<export_dir>/<name>`."""
        return self.path(self.export_dir) / info.name

    def save(
        self,
        folder: pathlib.Path,
        leaves: Mapping[str, Leaf],
        info: manifest.Manifest,
        dtype: np.dtype,
    ) -> None:
        """Writes the folder."""
        huggingface_export.save(
            folder,
            leaves,
            info.model,
            dtype=dtype,
            max_shard_bytes=self.max_shard_bytes,
            on_bytes=self.progress(leaves, dtype),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportT5X(Export):
    """Writes a checkpoint that T5X restores: weights and step, no optimiser.

    Attributes:
      export_dir: Where `<name>/checkpoint_<step>` goes.
      file_format: What T5X writes today, or its older format.
    """

    export_dir: paths.Path = "{MODEL_DIR}/t5x"
    file_format: t5x_export.Format = "orbax"

    def target(self, info: manifest.Manifest) -> pathlib.Path:
        """Returns `<export_dir>/<name>/checkpoint_<step>`."""
        return self.path(self.export_dir) / info.name / f"checkpoint_{info.steps}"

    def save(
        self,
        folder: pathlib.Path,
        leaves: Mapping[str, Leaf],
        info: manifest.Manifest,
        dtype: np.dtype,
    ) -> None:
        """Writes the folder."""
        t5x_export.save(
            folder,
            leaves,
            step=info.steps,
            file_format=self.file_format,
            dtype=dtype,
            on_bytes=self.progress(leaves, dtype),
        )
