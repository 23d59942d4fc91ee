"""What all imports of bases do: write the weights once, and compare them later."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from elm_jax import errors, fields, paths, trees
from elm_jax.checkpoints import manifest, recipes, streaming, tensors
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.data.vocabulary import SentencePiece
from elm_jax.model import config
from elm_jax.runs import vocabularies
from elm_jax.runs.progress import Progress, show_bytes
from elm_jax.runs.run import Plan, Run

StorageDtype = Literal["source", "float32", "bfloat16"]


class Source(NamedTuple):
    """Weights of another program, opened and checked, not in memory yet.

    Attributes:
      leaves: The tensors of the whole model, by our names.
      model: The model's shape.
      steps: Updates done, 0 if nobody knows.
      vocabulary_path: The SentencePiece model that lies beside the weights, if any.
      notes: Lines that tell what is left out.
    """

    leaves: Mapping[str, Leaf]
    model: config.T5Config
    steps: int = 0
    vocabulary_path: pathlib.Path | None = None
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportBase(Run):
    """Writes the weights of another program as the base `{MODEL_DIR}/<base_name>`.

    Attributes:
      base_name: Name of the base, and of its folder in `{MODEL_DIR}`.
      storage_dtype: Dtype of the base on disk; `source` keeps bfloat16 and makes
        float32 of all else. Whatever loads a base has float32 in memory.
      vocabulary_path: The SentencePiece model that the weights were trained with. It
        is copied into the base's folder, and every run's is compared with it. "" takes
        what lies beside the weights, if anything does.
      extra_ids: Sentinels above that model's own pieces.
    """

    base_name: paths.Name
    storage_dtype: StorageDtype = "source"
    vocabulary_path: paths.OptionalPath = ""
    extra_ids: fields.Sentinels = 100

    def origin(self) -> dict[str, Any]:
        """Returns where the weights are, by name, for the manifest."""
        raise NotImplementedError

    def open(self) -> Source:
        """Returns the weights; downloads them where needed.

        Raises:
          CheckpointError: They are not there, or torn.
        """
        raise NotImplementedError

    def known_of_model(self) -> dict[str, Any]:
        """Returns the fields of the model that the run itself decides, by name."""
        raise NotImplementedError

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the base."""
        return self.path("{MODEL_DIR}") / self.base_name

    def run(self) -> None:
        """Reads, checks and writes; compares, tensor by tensor, if the base is there.

        Raises:
          CheckpointError: The source cannot be read, or another base has the name.
        """
        is_there = (self.folder / manifest.FILE_NAME).is_file()
        try:
            source = self.open()
        except (errors.CheckpointError, errors.MissingExtraError) as error:
            if not is_there:
                raise
            self.check_recipe(None)
            reason = str(error).splitlines()[0]
            print(f"compared by name alone, as the source is gone: {reason}")  # noqa: T201
        else:
            was_saved = not is_there and recipes.make_once(
                lambda: self._save(source), lambda: self.check_recipe(source)
            )
            if was_saved:
                return
            self.check_recipe(source)
            self._check_weights(source)
            for change in self._moves():
                print(f"the same weights from another place: {change}")  # noqa: T201
        print(f"finished already: {self.folder}")  # noqa: T201

    def describe(self, source: Source | None) -> Plan:
        """Returns the plan of an import; reads no tensor.

        Args:
          source: The weights, if they can be opened at once.

        Raises:
          CheckpointError: Another base has the name.
        """
        is_there = self.check_recipe(source)
        finished: bool | str = is_there
        if is_there:
            moves = self._moves() if source else []
            finished = "; ".join(["True", *moves, "run to compare its weights"])
        leaves = source.leaves if source else None
        notes = {"left out": "\n".join(source.notes)} if source and source.notes else {}
        return {
            "read": next(iter(self.origin().values())),
            **notes,
            "model": source.model if source else "read after downloading",
            "storage dtype": self.storage_dtype,
            "vocabulary": self._describe_vocabulary(source),
            "finished already": finished,
            "files": self.folder,
            **sizes(self, leaves, self.storage_dtype),
        }

    def check_recipe(self, source: Source | None) -> bool:
        """Returns whether the requested base is there, without a look at its weights.

        Where the source can be opened, its path is not compared: a folder may have been
        moved, and weights are compared elsewhere.

        Args:
          source: The source of the weights, if it can be opened.

        Raises:
          CheckpointError: A base of this name is there by another recipe.
        """
        if not (self.folder / manifest.FILE_NAME).is_file():
            return False
        saved_info = manifest.read_manifest(self.folder)
        saved: dict[str, Any] = {"kind": saved_info.kind}
        requested: dict[str, Any] = {"kind": "base"}
        # All fields: records leave out those that have their default.
        model = dataclasses.asdict(source.model) if source else self.known_of_model()
        there_model = config.completed(config.T5Config, saved_info.model)
        saved["model"] = {name: there_model.get(name) for name in model}
        requested["model"] = model
        vocabulary = self._vocabulary_facts(source)
        if vocabulary:  # else the user leaves it to the base
            saved["vocabulary"] = saved_info.vocabulary.get("fingerprint", "none")
            requested["vocabulary"] = vocabulary["fingerprint"]
        data = self._data()
        if source:
            data = {k: value for k, value in data.items() if k not in self.origin()}
        saved |= {
            name: saved_info.data[name] for name in data if name in saved_info.data
        }
        requested |= {name: data[name] for name in data if name in saved_info.data}
        recipes.check_same(f"base {self.folder}", saved, requested)
        return True

    def _moves(self) -> list[str]:
        """Returns what differs in where a finished base came from, with both places."""
        if not (self.folder / manifest.FILE_NAME).is_file():
            return []
        data, origin = manifest.read_manifest(self.folder).data, self.origin()
        saved = {name: data[name] for name in origin if name in data}
        return recipes.find_changes(saved, {name: origin[name] for name in saved})

    def _check_weights(self, source: Source) -> None:
        dtype = tensors.storage_dtype(source.leaves, self.storage_dtype)
        total = trees.count_params(source.leaves) * dtype.itemsize
        fingerprint = streaming.fingerprint(
            source.leaves,
            dtype=dtype,
            on_bytes=Progress("compare", total=total, unit="bytes"),
        )
        saved_info = manifest.read_manifest(self.folder)
        recipes.check_same(
            f"base {self.folder}",
            {"weights": saved_info.base_fingerprint, "steps": saved_info.steps},
            {"weights": fingerprint, "steps": source.steps},
        )

    def _data(self) -> dict[str, Any]:
        return self.origin() | {"storage_dtype": self.storage_dtype}

    def _vocabulary(self, source: Source | None) -> SentencePiece | None:
        path = self.path(self.vocabulary_path) if self.vocabulary_path else None
        path = path or (source and source.vocabulary_path)
        return path and SentencePiece(str(path), self.extra_ids)

    def _vocabulary_facts(self, source: Source | None) -> dict[str, Any]:
        vocabulary = self._vocabulary(source)
        if vocabulary is None:
            return {}
        set_by = "named by the import" if self.vocabulary_path else "beside the weights"
        return vocabularies.describe(vocabulary, set_by=set_by)

    def _describe_vocabulary(self, source: Source | None) -> str:
        vocabulary = self._vocabulary(source)
        if vocabulary is not None:
            return f"{vocabulary.path}, {vocabulary.size} ids"
        if source is None:
            return "what lies beside the weights"
        return "none, so that no run can compare its own with it"

    def _save(self, source: Source) -> None:
        """Writes the base tensor by tensor, with progress.

        Raises:
          CheckpointError: The source is torn, or the place cannot be written.
          ConfigError: The vocabulary has more ids than the model has rows.
        """
        for line in source.notes:
            print(line)  # noqa: T201
        dtype = tensors.storage_dtype(source.leaves, self.storage_dtype)
        vocabulary, facts = self._vocabulary(source), self._vocabulary_facts(source)
        if vocabulary is not None:
            vocabularies.check_size(source.model.vocab_size, vocabulary)

        def make_manifest(fingerprint: str) -> manifest.Manifest:
            return manifest.Manifest(
                name=self.base_name,
                kind="base",
                base_name=self.base_name,
                base_fingerprint=fingerprint,
                model=config.recorded(source.model),
                trainable_pattern=".*",
                data=self._data(),
                steps=source.steps,
                versions=manifest.installed_versions(),
                vocabulary=facts,
                operative_config=self.operative_config(),
            )

        total = trees.count_params(source.leaves) * dtype.itemsize
        info = streaming.save_base(
            self.folder,
            source.leaves,
            make_manifest,
            dtype=dtype,
            on_bytes=Progress("convert", total=total, unit="bytes"),
            attached=vocabularies.attached(vocabulary) if vocabulary else {},
        )
        name = f"base {self.base_name} ({info.base_fingerprint})"
        print(f"{name}: {self.folder}")  # noqa: T201
        if vocabulary is None:
            print(  # noqa: T201
                "vocabulary: none is named, so that no run can compare its own with it;"
                " to have it checked, remove the folder and import it again with"
                " --gin.VOCABULARY=path (its fingerprint stays the same)"
            )
        else:
            print(f"vocabulary: {vocabulary.path}, {facts['set_by']}")  # noqa: T201


def sizes(
    run: Run, leaves: Mapping[str, Leaf] | None, storage_dtype: StorageDtype
) -> Plan:
    """Returns bytes to read and to write, as far as they are known, and free disk."""
    free = shutil.disk_usage(existing_parent(run.path("{MODEL_DIR}"))).free
    plan: Plan = {"free disk": show_bytes(free)}
    if leaves is not None:
        written = tensors.storage_dtype(leaves, storage_dtype)
        num_params = trees.count_params(leaves)
        plan["bytes to read"] = show_bytes(trees.count_bytes(leaves))
        plan["bytes to write, at most"] = show_bytes(num_params * written.itemsize)
        plan["parameters"] = f"{num_params:,}"
    return plan


def existing_parent(path: pathlib.Path) -> pathlib.Path:
    """Returns the nearest folder on the way up that exists."""
    return next(p for p in (path, *path.parents) if p.is_dir())
