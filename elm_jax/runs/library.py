"""elm_library: build and extend a library, look at it, ask it."""

import dataclasses
import pathlib

from elm_jax import errors, fields, paths
from elm_jax.checkpoints import manifest, recipes
from elm_jax.data import tasks as task_registry
from elm_jax.library import (
    catalogue,
    copying,
    index,
    sampling,
    text_formats,
)
from elm_jax.reporting import terminal
from elm_jax.runs import (
    bases,
    data_folder,
    embedders,
    library_card,
    loaded,
    queries,
    task_data,
    vocabularies,
)
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Plan, Run


def find_experts(run: Run, patterns: str | tuple[str, ...]) -> list[pathlib.Path]:
    """Returns the folders of experts that paths or shell patterns name, sorted.

    Bases are left out; a pattern that matches no expert is an error.
    """
    experts: dict[pathlib.Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        folders = [f for f in run.find(pattern) if (f / manifest.FILE_NAME).is_file()]
        kinds = {folder: manifest.read_manifest(folder).kind for folder in folders}
        chosen = sorted(folder for folder, kind in kinds.items() if kind != "base")
        if not chosen:
            raise errors.LibraryError(
                found=f"no expert matches {run.path(pattern)}",
                expected="one or more folders with a manifest.json",
                do="Train experts first (elm_train), or correct the pattern",
            )
        experts.update(dict.fromkeys(chosen))
    return list(experts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LibraryRun(Run):
    """Fields of all runs on a library.

    Attributes:
      library_dir: The library's folder.
    """

    library_dir: paths.Path = "{MODEL_DIR}/library"

    def open_catalogue(self) -> catalogue.Catalogue:
        """Returns the library's catalogue."""
        return catalogue.Catalogue(self.path(self.library_dir))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildLibrary(LibraryRun):
    """Adds experts to a library: a catalogue line and keys each; repeats do nothing.

    Attributes:
      experts: Folders of experts, or shell patterns of them.
      extends: A library beside this one to start from; it stays as it is.
      data: Vocabulary, lengths and folders of their training tasks.
      initial_checkpoint_path: Folder of the base, for the embedder `encoder`.
      embedder: What makes the keys.
      text_format: One of the paper's ten.
      num_keys: Training instances per expert.
      split: Where they come from.
      random_seed: The seed by which they are chosen.
    """

    experts: paths.Patterns
    data: task_data.TaskData
    extends: paths.OptionalPath = ""
    initial_checkpoint_path: paths.OptionalPath = ""
    embedder: embedders.EmbedderSpec = embedders.EmbedderSpec()
    text_format: str = "choice_instance"
    num_keys: fields.Count = sampling.NUM_KEYS
    split: str = "train"
    random_seed: fields.Seed = 42

    def check(self) -> None:
        """Raises ConfigError when the text format is unknown."""
        text_formats.check_format(self.text_format)

    def plan(self) -> Plan:
        """Returns the experts to be added and how; reads manifests.

        Raises:
          ElmError: As `run` before it embeds anything.
        """
        folders = find_experts(self, self.experts)
        new = self._select_new(folders)
        self._check(folders)
        return {
            "library": self.path(self.library_dir),
            "experts": f"{len(folders)}: {', '.join(f.name for f in folders)}",
            "listed already": len(folders) - len(new),
            "keys per expert": self.num_keys,
            "embedder": self.embedder.kind,
            "text format": self.text_format,
        }

    def run(self) -> None:
        """Adds what is not there yet.

        Raises:
          FingerprintError: Experts are of several bases or vocabularies.
          LibraryError: Two experts have one name, or keys were made otherwise.
        """
        folders = find_experts(self, self.experts)
        self._select_new(folders)
        data = self._check(folders)
        embedder = self.embedder.make(
            place=self.place,
            load_base=lambda: loaded.Base.open(self.path(self.initial_checkpoint_path)),
            load_data=lambda: data,
        )
        settings = index.IndexSettings(
            embedder=embedder.name,
            text_format=self.text_format,
            num_keys=self.num_keys,
            seed=self.random_seed,
        )
        if self.extends:
            index.open_made_by(self._extended(), embedder=embedder, settings=settings)
            copying.copy(self.path(self.extends), self.path(self.library_dir))
        unlisted = self._select_new(folders)
        whole = index.extend(
            self.path(self.library_dir),
            [self._new_expert(folder, data) for folder in folders],
            embedder=embedder,
            settings=settings,
            progress=Progress("embed", unit="keys"),
        )
        for folder in unlisted:
            # A training may have listed it while the keys were made.
            self.open_catalogue().list_once(folder)
        library_card.write(self.path(self.library_dir))
        print(f"library: {len(whole.names)} experts, {len(whole.keys)} keys")  # noqa: T201

    def _check(self, folders: list[pathlib.Path]) -> task_data.OpenedData:
        """Returns vocabulary and folders, compared with experts, base and index.

        Raises:
          CheckpointError: The keys that are there were made by other settings.
          FingerprintError: The base or an expert has another vocabulary.
        """
        data = self.data.opened(self.place)
        infos = [manifest.read_manifest(folder) for folder in folders]
        if self.initial_checkpoint_path:
            base_dir = self.path(self.initial_checkpoint_path)
            infos.append(bases.read_manifest(base_dir))
        for info in infos:
            vocabularies.check(info, data.vocabulary)
        folder = self._extended()
        if (folder / index.RECORD).is_file():
            settings = dataclasses.asdict(index.open_index(folder).settings)
            requested = {
                "text_format": self.text_format,
                "num_keys": self.num_keys,
                "seed": self.random_seed,
            }
            recipes.check_same(
                f"index of {folder}",
                {name: settings[name] for name in requested},
                requested,
                do="Use those settings, or build another library (library_dir)",
            )
        return data

    def _extended(self) -> pathlib.Path:
        """Returns the folder of the library that is added to; there may be none yet."""
        folder = self.path(self.library_dir)
        return (
            self.path(self.extends) if self.extends and not folder.exists() else folder
        )

    def _select_new(self, folders: list[pathlib.Path]) -> list[pathlib.Path]:
        """Returns the folders of experts that are not listed, after a look at all.

        Keys are never taken back, so a wrong expert must not get as far as having any.
        """
        return catalogue.Catalogue(self._extended()).check_new(folders)

    def _new_expert(
        self, folder: pathlib.Path, data: task_data.OpenedData
    ) -> index.NewExpert:
        info = manifest.read_manifest(folder)
        texts: list[str] = []
        used: list[index.RowsUsed] = []
        shares = sampling.share_keys(self.num_keys, len(info.tasks))
        for task, share in zip(info.tasks, shares, strict=True):
            dataset = data.open(task, self.split)
            parts = sampling.divide_rows(
                len(dataset), seed=self.random_seed, num_keys=share
            )
            rows = parts.keys.tolist()
            texts += queries.instance_texts(dataset, rows, self.text_format)
            used.append(index.RowsUsed(task, self.split, tuple(rows)))
        return index.NewExpert(info.name, texts, tuple(used))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListExperts(LibraryRun):
    """Prints the experts of a library."""

    def plan(self) -> Plan:
        """Returns which library would be listed."""
        return {"library": self.path(self.library_dir)}

    def run(self) -> None:
        """Prints one line per expert."""
        header = ("expert", "kind", "tasks", "steps", "status")
        rows = [
            (entry.name, entry.kind, ", ".join(entry.tasks), entry.steps, entry.status)
            for entry in self.open_catalogue().entries()
        ]
        title = str(self.path(self.library_dir))
        terminal.show(terminal.table(title, header, rows))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetireExperts(LibraryRun):
    """Takes experts out of retrieval; their files and keys stay.

    Attributes:
      experts: Names of the experts that are taken out.
    """

    experts: tuple[paths.Name, ...]

    def plan(self) -> Plan:
        """Returns who would be retired."""
        return {"library": self.path(self.library_dir), "retire": self.experts}

    def run(self) -> None:
        """Retires the experts, if all of them are listed."""
        listed = self.open_catalogue()
        for name in self.experts:
            listed.get(name)
        for name in self.experts:
            listed.retire(name)
            print(f"retired: {name}")  # noqa: T201
        library_card.write(self.path(self.library_dir))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieve(queries.Queries, LibraryRun):
    """Asks a library which expert fits each task, by unlabelled instances (RoE).

    Attributes:
      tasks: Names or patterns of tasks and mixtures.
      data: Vocabulary, lengths and folders of their rows.
      initial_checkpoint_path: Folder of the base, for the embedder `encoder`.
    """

    tasks: str | tuple[str, ...]
    data: task_data.TaskData

    def plan(self) -> Plan:
        """Returns which tasks would ask; looks at the library.

        Raises:
          ElmError: As `queries.Queries.check_library`.
        """
        names = task_registry.registry.expand(self.tasks)
        data_folder.check(self.data.data_options(self.place), names, (self.split,))
        self.check_library(self, self.data)
        return {
            "library": self.path(self.library_dir),
            "tasks": f"{len(names)}: {', '.join(names)}",
            "queries per task": self.num_queries,
            "files": self.path(self.votes_path),
        }

    def run(self) -> None:
        """Prints the votes and writes them down."""
        rows = []
        for question in self.ask(
            self, task_registry.registry.expand(self.tasks), self.data
        ):
            (expert, votes), *other_votes = question.result.votes
            rest = ", ".join(f"{name} {count}" for name, count in other_votes[:3])
            rows.append((question.task, expert, votes, rest))
        header = ("task", "expert", "votes", "others")
        terminal.show(terminal.table("Retrieved experts", header, rows))
