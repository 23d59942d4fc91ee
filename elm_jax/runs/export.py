"""elm_convert: bases, dataset experts and merged experts to other programs, whole."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from elm_jax import errors, fields, paths, trees
from elm_jax.checkpoints import (
    experts,
    huggingface_export,
    manifest,
    recipes,
    streaming,
    t5x_export,
    tensors,
)
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.model import t5
from elm_jax.runs import base_import, bases, expert_checks, vocabularies
from elm_jax.runs.progress import Progress, show_bytes
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Run):
    """Fields of all exports of a whole model.

    Attributes:
      expert_path: Folder of a base, a dataset expert or a merged expert.
      initial_checkpoint_path: Folder of its base; needed only by an expert that holds
        a part of the parameters, such as norms, and is joined with the rest.
      storage_dtype: Dtype of the written weights; `source` keeps bfloat16 and float32.
    """

    expert_path: paths.Path
    initial_checkpoint_path: paths.Path | None = None
    storage_dtype: base_import.StorageDtype = "source"

    def target(self, info: manifest.Manifest) -> pathlib.Path:
        """Returns the folder to write."""
        raise NotImplementedError

    def save(
        self,
        folder: pathlib.Path,
        leaves: Mapping[str, Leaf],
        info: manifest.Manifest,
        dtype: np.dtype,
        recipe: dict[str, Any],
    ) -> None:
        """Writes the folder, with its recipe."""
        raise NotImplementedError

    def plan(self) -> Plan:
        """Returns what would be read and written; reads metadata only."""
        source = self.path(self.expert_path)
        plan: Plan = {"read": source, "storage dtype": self.storage_dtype}
        if not source.is_dir():
            return plan | base_import.sizes(self, None, self.storage_dtype)
        leaves, info = self._open()
        finished = self._is_finished(info)
        sizes = base_import.sizes(self, leaves, self.storage_dtype)
        files: Plan = {"files": self.target(info), "finished already": finished}
        return plan | files | sizes

    def run(self) -> None:
        """Checks and writes; does nothing if the same export is there.

        Raises:
          CheckpointError: The model cannot be written so, or another export is there.
        """
        leaves, info = self._open()
        folder = self.target(info)
        if self._is_finished(info):
            print(f"finished already: {folder}")  # noqa: T201
            return
        dtype = tensors.storage_dtype(leaves, self.storage_dtype)
        was_saved = recipes.make_once(
            lambda: self.save(folder, leaves, info, dtype, self._recipe(info)),
            lambda: self._is_finished(info),
        )
        if not was_saved:
            print(f"finished already: {folder}")  # noqa: T201
            return
        size = show_bytes(trees.count_params(leaves) * dtype.itemsize)
        print(f"{info.kind} {info.name} ({size}): {folder}")  # noqa: T201

    def progress(self, leaves: Mapping[str, Leaf], dtype: np.dtype) -> Progress:
        """Returns the progress over the bytes that will be written."""
        total = trees.count_params(leaves) * dtype.itemsize
        return Progress("export", total=total, unit="bytes")

    def settings(self) -> dict[str, Any]:
        """Returns what else decides what is written, by name."""
        return {}

    def _recipe(self, info: manifest.Manifest) -> dict[str, Any]:
        made_of = {"name": info.name, "fingerprint": info.fingerprint}
        if self.initial_checkpoint_path is not None:
            folder = self.path(self.initial_checkpoint_path)
            made_of["base_fingerprint"] = bases.read_fingerprint(folder)
        return made_of | {"storage_dtype": self.storage_dtype} | self.settings()

    def _is_finished(self, info: manifest.Manifest) -> bool:
        """Returns whether this very export is there.

        Raises:
          CheckpointError: Another one is, or a folder without a recipe.
        """
        folder = self.target(info)
        if not folder.exists():
            return False
        saved_recipe = recipes.read(recipes.inside(folder))
        recipes.check_same(f"export {folder}", saved_recipe, self._recipe(info))
        return True

    def _open(self) -> tuple[dict[str, Leaf], manifest.Manifest]:
        leaves, info = streaming.open_expert(self.path(self.expert_path))
        if info.adapter is not None:
            raise errors.CheckpointError(
                found=f"{info.kind} expert {info.name!r} with adapters: {info.adapter}",
                expected="a whole model without adapters",
                do="Export LoRA and (IA)3 experts to PEFT's format",
            )
        if self.initial_checkpoint_path is not None:
            folder = self.path(self.initial_checkpoint_path)
            check = (
                bases.check_fits if info.kind == "base" else expert_checks.check_joins
            )
            check(info, bases.read_manifest(folder))
            base, _ = streaming.open_expert(folder)
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

    def settings(self) -> dict[str, Any]:
        """Returns the size of files."""
        return {"max_shard_bytes": self.max_shard_bytes}

    def save(
        self,
        folder: pathlib.Path,
        leaves: Mapping[str, Leaf],
        info: manifest.Manifest,
        dtype: np.dtype,
        recipe: dict[str, Any],
    ) -> None:
        """Writes the folder, with its recipe."""
        huggingface_export.save(
            folder,
            leaves,
            info.model,
            dtype=dtype,
            max_shard_bytes=self.max_shard_bytes,
            on_bytes=self.progress(leaves, dtype),
            recipe=recipe,
            vocabulary=self._vocabulary(),
        )

    def _vocabulary(self) -> bytes:
        """Returns the vocabulary that travels with the base, if one does."""
        folder = self.path(self.initial_checkpoint_path or self.expert_path)
        path = folder / vocabularies.FILE_NAME
        return path.read_bytes() if path.is_file() else b""


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

    def settings(self) -> dict[str, Any]:
        """Returns the format."""
        return {"file_format": self.file_format}

    def save(
        self,
        folder: pathlib.Path,
        leaves: Mapping[str, Leaf],
        info: manifest.Manifest,
        dtype: np.dtype,
        recipe: dict[str, Any],
    ) -> None:
        """Writes the folder, with its recipe."""
        t5x_export.save(
            folder,
            leaves,
            step=info.steps,
            file_format=self.file_format,
            dtype=dtype,
            on_bytes=self.progress(leaves, dtype),
            recipe=recipe,
        )
