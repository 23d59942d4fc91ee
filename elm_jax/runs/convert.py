"""elm_convert: weights of other programs to bases; `export` has the way back."""

import dataclasses
import pathlib
from typing import Any, Literal

from elm_jax import errors, paths
from elm_jax.checkpoints import (
    huggingface_files,
    huggingface_import,
    t5x,
    t5x_config,
)
from elm_jax.model import config, t5
from elm_jax.runs.base_import import ImportBase, Source
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportT5X(ImportBase):
    """Reads a T5X checkpoint, legacy or Orbax, plain or scanned, into a base.

    Attributes:
      t5x_path: The checkpoint's folder, such as `checkpoint_1000000`, or its URL in a
        bucket, such as `gs://bucket/checkpoint_1000000`.
      model: The model's shape; every tensor is checked against it. What no tensor
        shows is taken from here: `mlp_activations`, checked against T5X's `config.gin`
        beside the checkpoint if there is one, and `relpos_max_distance`.
      ignored_fields: Names of fields of the network in that `config.gin` that no T5 of
        T5X has and that change nothing; others that none has are refused.
    """

    t5x_path: paths.Place
    model: config.T5Config
    ignored_fields: tuple[str, ...] = ()

    def origin(self) -> dict[str, Any]:
        """Returns the checkpoint's folder or URL."""
        return {"t5x_path": source_place(self, self.t5x_path)}

    def plan(self) -> Plan:
        """Returns what would be read and written; reads the source's metadata."""
        is_there = t5x.is_t5x(source_place(self, self.t5x_path))
        return self.describe(self.open() if is_there else None)

    def open(self) -> Source:
        """Returns the checkpoint, every tensor's shape checked."""
        place = source_place(self, self.t5x_path)
        checkpoint = t5x.open_t5x(place)
        t5x.check(checkpoint, t5.param_shapes(t5.T5(self.model)), of=place)
        t5x_config.check(place, self.model.mlp_activations, self.ignored_fields)
        return Source(checkpoint.leaves(), self.model, checkpoint.step)

    def known_of_model(self) -> dict[str, Any]:
        """Returns the whole shape."""
        return dataclasses.asdict(self.model)

    def run(self) -> None:
        """Reads, checks and writes; compares if the base is there."""
        with t5x.reading(source_place(self, self.t5x_path)):
            super().run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportHuggingFace(ImportBase):
    """Reads a T5, mT5, ByT5, Flan-T5, T0 or mT0 of Hugging Face's into a base.

    The model's shape is read from the folder's config.json and its tensors, rows of
    the vocabulary as they are in the file. A configuration that makes another function
    of the same tensors than ours (another end, start or pad id, other norms, ...) is
    refused; `elm_jax.checkpoints.huggingface_rules` lists each field. The vocabulary is
    the folder's spiece.model unless another is named.

    Attributes:
      huggingface_path: A folder, or a name on the Hub, such as `google/flan-t5-xl`.
      revision: On the Hub; None for its main branch.
      dtype: In which the base computes.
      remat: What the backward pass computes again instead of keeping it, as in
        T5Config.
      base_dtype: How a base is held that does not train: "" as it computes, or `int8`,
        which halves what it takes of a device.
      ignored_fields: Names of fields in config.json that no T5 has and that change
        nothing; others that no T5 has are refused.
    """

    huggingface_path: paths.Source
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Literal["none", "products", "layer"] = "products"
    base_dtype: Literal["", "int8"] = ""
    ignored_fields: tuple[str, ...] = ()

    def origin(self) -> dict[str, Any]:
        """Returns the folder or name, and the revision."""
        path = source_place(self, self.huggingface_path)
        return {"huggingface_path": path, "revision": self.revision}

    def known_of_model(self) -> dict[str, Any]:
        """Returns the fields of how the model computes; the folder has the others."""
        how = {"dtype": self.dtype, "remat": self.remat}
        return how | {"base_dtype": self.base_dtype}

    def plan(self) -> Plan:
        """Returns what would be read and written; downloads nothing."""
        folder = pathlib.Path(source_place(self, self.huggingface_path))
        return self.describe(self._open(folder) if folder.is_dir() else None)

    def open(self) -> Source:
        """Returns the model; downloads it if its name is one of the Hub."""
        place = source_place(self, self.huggingface_path)
        return self._open(huggingface_files.find_folder(place, self.revision))

    def _open(self, folder: pathlib.Path) -> Source:
        opened = huggingface_files.open_folder(folder)
        fields = huggingface_import.model_fields(opened, self.ignored_fields)
        try:
            model = config.T5Config(**fields, **self.known_of_model())
        except errors.ConfigError as error:
            raise errors.CheckpointError(
                found=f"{folder / huggingface_files.CONFIG} of a T5 that cannot be:"
                f" {str(error).partition(chr(10))[0].removeprefix('Found: ')}",
                expected="the configuration that the weights were trained with",
                do="Download the folder again",
            ) from error
        shapes = t5.param_shapes(t5.T5(model))
        path = folder / huggingface_files.VOCABULARY
        return Source(
            leaves=huggingface_import.open_leaves(opened, shapes, of=str(folder)),
            model=model,
            vocabulary_path=path if path.is_file() else None,
            notes=huggingface_import.notes(opened, self.ignored_fields),
        )


def source_place(run: Run, text: str) -> str:
    """Returns the URL or path; a text that can only be a name is returned unchanged."""
    place = run.place(text)
    may_be_name = huggingface_files.HUB_NAME.fullmatch(text) is not None
    is_there = paths.is_url(place) or pathlib.Path(place).exists()
    return place if is_there or not may_be_name else text
