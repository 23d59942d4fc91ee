"""Experts in memory, and bases, which are experts that others are put on."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from elm_jax import paths, trees
from elm_jax.checkpoints import (
    expert_places,
    experts,
    manifest,
    stored_arrays,
    streaming,
)
from elm_jax.model import config, t5
from elm_jax.peft import adapters, expert_parts
from elm_jax.runs import bases, expert_checks, vocabularies
from elm_jax.types import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Expert:
    """Parameters, and the manifest that says what they are.

    Attributes:
      params: A nested mapping of arrays: of an expert the part of a model that it
        trained, of a base the whole model.
      manifest: What they are: name, base, adapters, tasks, how they were trained.
      attached: Content of files that go with them, by name, such as a base's
        vocabulary.
      folder: Where they were loaded from; None for what is in memory alone, or was
        loaded from elsewhere than a folder.
    """

    params: Params
    manifest: manifest.Manifest
    attached: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    folder: pathlib.Path | None = None

    @classmethod
    def load(cls, place: str | pathlib.Path) -> Self:
        """Returns the expert that lies in a place, its tensors as they were saved.

        Args:
          place: A folder, `gs://.../NAME`, `s3://.../NAME` or `hf://owner/name`.

        Raises:
          CheckpointError: There is none, or it is damaged.
          MissingExtraError: The place needs a package that is not installed.
        """
        with expert_places.opened(place) as folder:
            expert = cls._read(folder)
        own_folder = None if paths.is_url(f"{place}") else folder
        return dataclasses.replace(expert, folder=own_folder)

    def save(self, place: str | pathlib.Path) -> None:
        """Writes the expert into a new place, whole or not at all.

        Args:
          place: As for `load`; in a bucket it ends in the expert's name.

        Raises:
          ExistsError: Something is there.
          CheckpointError: The place cannot be written, or a number is not finite.
          MissingExtraError: The place needs a package that is not installed.
        """
        expert_places.write(place, self.name, self._write)

    @property
    def name(self) -> str:
        """The expert's name."""
        return self.manifest.name

    @property
    def adapter(self) -> adapters.AdapterSpec | None:
        """Its adapters; None without."""
        return bases.adapter_spec(self.manifest)

    @property
    def config(self) -> config.T5Config:
        """The shape of the expert's model."""
        return bases.model_config(self.manifest)

    def __repr__(self) -> str:
        """Returns kind, name and size."""
        kind, count = type(self).__name__, trees.count_params(self.params)
        return f"<{kind} {self.name!r}: {self.manifest.kind}, {count:,} parameters>"

    @classmethod
    def _read(cls, folder: pathlib.Path) -> Self:
        params, info = experts.load_expert(folder)
        return cls(params, info, _attached(folder))

    def _write(self, folder: pathlib.Path) -> None:
        experts.save_expert(folder, self.params, self.manifest, attached=self.attached)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Base(Expert):
    """A whole model in memory; many experts are put on it.

    Attributes:
      params: As for experts; float32, in whatever dtype they are on disk. Those of
        `open` are read when they are used.
      manifest: Its own; of an expert with all parameters, which names another base.
      stored_dtypes: Dtypes of its tensors on disk, by name, to save it as it was.
    """

    stored_dtypes: Mapping[str, np.dtype] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, folder: pathlib.Path) -> Self:
        """Returns the base in a folder, of which no tensor is in memory.

        Its parameters are `stored_arrays.StoredArray`, in the dtypes of the disk.

        Raises:
          CheckpointError: There is none, or it is damaged; that values are not those
            that were saved is found when they are read.
        """
        shape = t5.param_shapes(t5.T5(bases.model_config(bases.read_manifest(folder))))
        leaves, info = streaming.open_expert(folder)
        params = trees.unflatten(
            {name: stored_arrays.StoredArray(leaf) for name, leaf in leaves.items()}
        )
        label = f"expert {info.name!r} in {folder}"
        experts.check_same_tensors(params, shape, of=label)
        dtypes = {name: leaf.dtype for name, leaf in leaves.items()}
        return cls(params, info, _attached(folder), folder=folder, stored_dtypes=dtypes)

    @property
    def fingerprint(self) -> str:
        """The fingerprint that experts of this base have as `base_fingerprint`."""
        return self.as_base.base_fingerprint

    @functools.cached_property
    def as_base(self) -> manifest.Manifest:
        """Its manifest, with its own name and fingerprint as those of the base."""
        return bases.as_base(self.manifest, self._stored_params)

    def with_expert(self, expert: Expert) -> dict[str, Any]:
        """Returns the whole model: the base's parameters, replaced by the expert's.

        Raises:
          CheckpointError: The tensors or the model of the expert do not fit.
        """
        self.check_fits(expert)
        return trees.replace(self.params, expert.params)

    def check_fits(self, expert: Expert) -> None:
        """Raises an error unless an expert can be put on this base.

        Raises:
          CheckpointError: Its tensors or its model do not fit.
          FingerprintError: It was trained on another base.
        """
        bases.check_fits(expert.manifest, self.as_base)
        expert_checks.check_same_function(expert.manifest, self.manifest)
        expert_checks.check_held(trees.flatten(expert.params), expert.manifest)
        model = bases.build_model(self.config, expert.adapter)
        label, trainable_pattern = (
            f"expert {expert.name!r}",
            expert.manifest.trainable_pattern,
        )
        shapes = expert_parts.part(t5.param_shapes(model), trainable_pattern, of=label)
        experts.check_same_tensors(expert.params, shapes, of=label)

    @classmethod
    def _read(cls, folder: pathlib.Path) -> Self:
        base = cls.open(folder)
        return dataclasses.replace(base, params=trees.as_float32(base.params))

    def _stored_params(self) -> Params:
        leaves = trees.flatten(self.params)
        return trees.unflatten(
            {
                name: np.asarray(leaf).astype(self.stored_dtypes.get(name, leaf.dtype))
                for name, leaf in leaves.items()
            }
        )

    def _write(self, folder: pathlib.Path) -> None:
        Expert(self._stored_params(), self.manifest, self.attached)._write(folder)  # noqa: SLF001 - its own


def _attached(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns the files that lie beside an expert's parameters."""
    path = folder / vocabularies.FILE_NAME
    return {path.name: path.read_bytes()} if path.is_file() else {}
