"""elm_convert: weights of other programs to bases; `export` has the way back."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, Literal

from elm_jax import paths, trees
from elm_jax.checkpoints import (
    huggingface_files,
    huggingface_import,
    manifest,
    streaming,
    t5x,
    t5x_config,
    tensors,
)
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.model import config, t5
from elm_jax.runs.progress import Progress, show_bytes
from elm_jax.runs.run import Plan, Run

StorageDtype = Literal["source", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportT5X(Run):
    """Reads a T5X checkpoint, legacy or Orbax, plain or scanned, into a base.

    Attributes:
      t5x_path: The checkpoint's folder, such as `checkpoint_1000000`, or its URL in a
        bucket, such as `gs://bucket/checkpoint_1000000`.
      model: The model's shape; every tensor is checked against it. What no tensor
        shows is taken from here: `mlp_activations`, checked against T5X's `config.gin`
        beside the checkpoint if there is one, and `relpos_max_distance`.
      base_name: Name of the base, and of its folder in `{MODEL_DIR}`.
      storage_dtype: Of the base on disk; `source` keeps bfloat16 and makes float32 of
        all else. Whatever loads a base has float32 in memory.
      ignored_fields: Names of fields of the network in that `config.gin` that no T5 of
        T5X has and that change nothing; others that none has are refused.
    """

    t5x_path: paths.Place
    model: config.T5Config
    base_name: paths.Name
    storage_dtype: StorageDtype = "source"
    ignored_fields: tuple[str, ...] = ()

    def plan(self) -> Plan:
        """Returns what would be read and written; reads the source's metadata."""
        shapes = t5.param_shapes(t5.T5(self.model))
        source = source_place(self, self.t5x_path)
        leaves = self._open(source).leaves() if t5x.is_t5x(source) else None
        return import_plan(self, source, self.base_name, self.storage_dtype) | sizes(
            self, leaves, self.storage_dtype, trees.count_params(shapes)
        )

    def run(self) -> None:
        """Reads, checks and writes; does nothing if the base is there."""
        if is_finished(self, self.base_name):
            return
        source = source_place(self, self.t5x_path)
        checkpoint = self._open(source)
        with t5x.reading(source):
            save_base(
                self,
                checkpoint.leaves(),
                self.model,
                base_name=self.base_name,
                storage_dtype=self.storage_dtype,
                data={"t5x_path": source},
                steps=checkpoint.step,
            )

    def _open(self, source: str) -> t5x.Checkpoint:
        checkpoint = t5x.open_t5x(source)
        t5x.check(checkpoint, t5.param_shapes(t5.T5(self.model)), of=source)
        t5x_config.check(source, self.model.mlp_activations, self.ignored_fields)
        return checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportHuggingFace(Run):
    """Reads a T5, mT5, ByT5, Flan-T5, T0 or mT0 of Hugging Face's into a base.

    The model's shape is read from the folder's config.json and its tensors, rows of
    the vocabulary as they are in the file. A configuration that makes another function
    of the same tensors than ours (another end, start or pad id, other norms, ...) is
    refused; `elm_jax.checkpoints.huggingface_rules` lists each field.

    Attributes:
      huggingface_path: A folder, or a name on the Hub, such as `google/flan-t5-xl`.
      base_name: Name of the base, and of its folder in `{MODEL_DIR}`.
      revision: On the Hub; None for its main branch.
      storage_dtype: As for `ImportT5X`.
      dtype: In which the base computes.
      remat: As in T5Config.
      ignored_fields: Names of fields in config.json that no T5 has and that change
        nothing; others that no T5 has are refused.
    """

    huggingface_path: paths.Source
    base_name: paths.Name
    revision: str | None = None
    storage_dtype: StorageDtype = "source"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Literal["none", "products", "layer"] = "products"
    ignored_fields: tuple[str, ...] = ()

    def plan(self) -> Plan:
        """Returns what would be read and written; downloads nothing."""
        folder = pathlib.Path(source_place(self, self.huggingface_path))
        leaves, model, notes = None, "read after downloading", []
        if folder.is_dir():
            leaves, model, notes = self._open(folder)
        return (
            import_plan(self, str(folder), self.base_name, self.storage_dtype)
            | {"model": model}
            | ({"left out": "\n".join(notes)} if notes else {})
            | sizes(self, leaves, self.storage_dtype)
        )

    def run(self) -> None:
        """Downloads where needed, checks and writes; nothing if the base is there."""
        if is_finished(self, self.base_name):
            return
        place = source_place(self, self.huggingface_path)
        folder = huggingface_files.find_folder(place, self.revision)
        leaves, model, notes = self._open(folder)
        for line in notes:
            print(line)  # noqa: T201
        save_base(
            self,
            leaves,
            model,
            base_name=self.base_name,
            storage_dtype=self.storage_dtype,
            data={"huggingface_path": place, "revision": self.revision},
        )

    def _open(
        self, folder: pathlib.Path
    ) -> tuple[dict[str, Leaf], config.T5Config, list[str]]:
        opened = huggingface_files.open_folder(folder)
        fields = huggingface_import.model_fields(opened, self.ignored_fields)
        model = config.T5Config(**fields, dtype=self.dtype, remat=self.remat)
        shapes = t5.param_shapes(t5.T5(model))
        leaves = huggingface_import.open_leaves(opened, shapes, of=str(folder))
        return leaves, model, huggingface_import.notes(opened, self.ignored_fields)


def save_base(
    run: Run,
    leaves: Mapping[str, Leaf],
    model: config.T5Config,
    *,
    base_name: str,
    storage_dtype: StorageDtype,
    data: dict[str, Any],
    steps: int = 0,
) -> None:
    """Writes a base to `{MODEL_DIR}/<base_name>` tensor by tensor, with progress.

    Raises:
      CheckpointError: The source is torn, or the place cannot be written.
    """
    dtype = tensors.storage_dtype(leaves, storage_dtype)
    folder = run.path("{MODEL_DIR}") / base_name

    def make_manifest(fingerprint: str) -> manifest.Manifest:
        return manifest.Manifest(
            name=base_name,
            kind="base",
            base_name=base_name,
            base_fingerprint=fingerprint,
            model=dataclasses.asdict(model),
            trainable_pattern=".*",
            data=data,
            steps=steps,
            versions=manifest.installed_versions(),
            operative_config=run.operative_config(),
        )

    total = trees.count_params(leaves) * dtype.itemsize
    info = streaming.save_base(
        folder,
        leaves,
        make_manifest,
        dtype=dtype,
        on_bytes=Progress("convert", total=total, unit="bytes"),
    )
    print(f"base {base_name} ({info.base_fingerprint}): {folder}")  # noqa: T201


def is_finished(run: Run, base_name: str) -> bool:
    """Returns whether the base is there, and says so."""
    folder = run.path("{MODEL_DIR}") / base_name
    finished = (folder / manifest.FILE_NAME).is_file()
    if finished:
        print(f"finished already: {folder}")  # noqa: T201
    return finished


def source_place(run: Run, text: str) -> str:
    """Returns the URL, the folder if there is one, or the text as it is: a name."""
    place = run.place(text)
    return place if paths.is_url(place) or pathlib.Path(place).exists() else text


def import_plan(
    run: Run, source: str, base_name: str, storage_dtype: StorageDtype
) -> Plan:
    """Returns the part of a plan that all imports have."""
    return {
        "read": source,
        "storage dtype": storage_dtype,
        "files": run.path("{MODEL_DIR}") / base_name,
    }


def sizes(
    run: Run,
    leaves: Mapping[str, Leaf] | None,
    storage_dtype: StorageDtype,
    num_params: int | None = None,
) -> Plan:
    """Returns bytes to read and to write, as far as they are known, and free disk."""
    free = shutil.disk_usage(existing_parent(run.path("{MODEL_DIR}"))).free
    plan: Plan = {"free disk": show_bytes(free)}
    if leaves is not None:
        written = tensors.storage_dtype(leaves, storage_dtype)
        num_params = trees.count_params(leaves)
        plan["bytes to read"] = show_bytes(trees.count_bytes(leaves))
        plan["bytes to write, at most"] = show_bytes(num_params * written.itemsize)
    if num_params is not None:
        plan["parameters"] = f"{num_params:,}"
    return plan


def existing_parent(path: pathlib.Path) -> pathlib.Path:
    """Returns the nearest folder on the way up that exists."""
    return next(p for p in (path, *path.parents) if p.is_dir())
