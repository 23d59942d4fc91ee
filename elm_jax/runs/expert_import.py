"""What all imports of experts from other programs have."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import experts, manifest, recipes
from elm_jax.data import templates
from elm_jax.evaluation import naming
from elm_jax.peft import adapters
from elm_jax.runs import bases, loaded
from elm_jax.runs.run import Plan, Run
from elm_jax.types import Params


class ReadExpert(NamedTuple):
    """Parameters and settings that an import read of one expert."""

    params: Params
    adapter: adapters.AdapterSpec
    trainable_pattern: str
    data: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportExperts(Run):
    """Fields of all imports of experts.

    Attributes:
      source_paths: Folders, or shell patterns of them.
      initial_checkpoint_path: Folder of the base that the experts were trained on.
      experts_dir: Where the experts go, as `<experts_dir>/<name>`.
      expert_name: Name of the result, for one source; by default it is made from the
        folder's name.
      tasks: The training tasks, by whose rows a library knows the experts; by default
        one of the expert's own name.
    """

    source_paths: paths.Patterns
    initial_checkpoint_path: paths.Path
    experts_dir: paths.Path = "{MODEL_DIR}/imported"
    expert_name: paths.OptionalName = ""
    tasks: tuple[paths.Name, ...] = ()

    def check(self) -> None:
        """Raises ConfigError if the expert would be called as a strategy is."""
        naming.check_is_no_label(self.expert_name, "prompt")

    def name_of(self, source: pathlib.Path) -> str:
        """Returns an expert's name by default."""
        return templates.task_name(source.name, None, "").strip("_")

    def read(self, source: pathlib.Path, base: manifest.Manifest) -> ReadExpert:
        """Returns what a folder holds."""
        raise NotImplementedError

    def sources(self) -> dict[str, pathlib.Path]:
        """Returns the folders to read by the names of their experts.

        Raises:
          CheckpointError: A path or pattern names no folder.
          ConfigError: Two folders have one name, or one has none that an expert may
            have.
        """
        source_paths = self.source_paths
        by_name: dict[str, pathlib.Path] = {}
        for pattern in (
            [source_paths] if isinstance(source_paths, str) else source_paths
        ):
            folders = [folder for folder in self.find(pattern) if folder.is_dir()]
            if not folders:
                raise errors.CheckpointError(
                    found=f"no folder matches {self.path(pattern)}",
                    expected="the folder of an expert, or a pattern of several",
                    do="Correct the path",
                )
            for folder in folders:
                name = paths.check_name(
                    self.expert_name or self.name_of(folder),
                    of=f"the expert in {folder}",
                    do="Import it with expert_name",
                )
                if by_name.setdefault(name, folder) != folder:
                    raise errors.ConfigError(
                        found=f"{folder} and {by_name[name]} for an expert {name!r}",
                        expected="a name for each",
                        do="Import them one by one with expert_name",
                    )
        return by_name

    def plan(self) -> Plan:
        """Returns what would be read and written; compares what is there already.

        Raises:
          CheckpointError: As `run`, of experts that are there, and of sources whose
            base was held otherwise.
        """
        sources = self.sources()
        notes = []
        if self.path(self.initial_checkpoint_path).is_dir():
            base = self._base()
            notes = [_held_note(source, base) for source in sources.values()]
        finished = [name for name in sources if self._is_finished(name)]
        if finished:
            base = self._base()
            for name in finished:
                read = self.read(sources[name], base)
                self._check_same(self._manifest(name, read, base), read)
        plan: Plan = {
            "read": "\n".join(map(str, sources.values())),
            "experts": f"{len(sources)}: {', '.join(sources)}",
            "finished already": len(finished),
            "files": self.path(f"{self.experts_dir}/<name>"),
        }
        if any(notes):
            plan["note"] = "\n".join(filter(None, notes))
        return plan

    def run(self) -> None:
        """Reads and checks all; writes what is not there, compares what is.

        Raises:
          CheckpointError: A source cannot be read or says that its base was held
            otherwise, or another expert is there under a name.
        """
        self.import_all(print)

    def import_all(
        self, tell: Callable[[str], None]
    ) -> dict[pathlib.Path, pathlib.Path]:
        """Does what `run` does, and returns the experts' folders by their sources.

        Args:
          tell: Takes a line on each expert.

        Raises:
          CheckpointError: As `run`.
        """
        base, places = self._base(), {}
        for name, source in self.sources().items():
            if note := _held_note(source, base):
                tell(note)
            read_expert = self.read(source, base)
            place = places[source] = self._folder(name)
            if not self._import(
                name, read_expert, self._manifest(name, read_expert, base)
            ):
                tell(f"finished already: {name}")
                continue
            num_params = trees.count_params(read_expert.params)
            tell(f"expert {name} ({num_params:,} parameters): {place}")
        return places

    def finished(self) -> dict[pathlib.Path, pathlib.Path]:
        """Returns the folders of the experts that are there by their sources."""
        return {
            source: self._folder(name)
            for name, source in self.sources().items()
            if self._is_finished(name)
        }

    def _import(
        self, name: str, read_expert: ReadExpert, info: manifest.Manifest
    ) -> bool:
        """Returns whether this call saved the expert; else the same one was there."""

        def is_same() -> bool:
            if not self._is_finished(name):
                return False
            self._check_same(info, read_expert)
            return True

        return not is_same() and recipes.make_once(
            lambda: loaded.Expert(read_expert.params, info).save(self._folder(name)),
            is_same,
        )

    def _base(self) -> manifest.Manifest:
        return bases.read_manifest(self.path(self.initial_checkpoint_path))

    def _folder(self, name: str) -> pathlib.Path:
        return self.path(f"{self.experts_dir}/{name}")

    def _is_finished(self, name: str) -> bool:
        return (self._folder(name) / manifest.FILE_NAME).is_file()

    def _check_same(self, new: manifest.Manifest, read_expert: ReadExpert) -> None:
        """Raises CheckpointError if another expert is in the folder."""
        folder = self._folder(new.name)
        saved_info = manifest.read_manifest(folder)
        weights = saved_info.params_fingerprint  # "" in what release 0.1 saved
        weights = weights or trees.fingerprint(experts.load_expert(folder)[0])
        recipes.check_same(
            f"expert {folder}",
            _identity(saved_info) | {"weights": weights},
            _identity(new) | {"weights": trees.fingerprint(read_expert.params)},
            do="Name another expert_name or experts_dir for this one, or remove the"
            " folder to import it anew",
        )

    def _manifest(
        self, name: str, read_expert: ReadExpert, base: manifest.Manifest
    ) -> manifest.Manifest:
        return manifest.Manifest(
            name=name,
            kind="prompt",
            base_name=base.name,
            base_fingerprint=base.base_fingerprint,
            model=base.model,
            adapter=bases.describe(read_expert.adapter),
            trainable_pattern=read_expert.trainable_pattern,
            tasks=self.tasks or (name,),
            data=read_expert.data,
            versions=manifest.installed_versions(),
            vocabulary=base.vocabulary,
            operative_config=self.operative_config(),
        )


def _identity(info: manifest.Manifest) -> dict[str, Any]:
    """Returns what must not differ between two imports of one expert."""
    return {
        "base": info.base_fingerprint,
        "base_dtype": info.base_dtype,
        "tasks": list(info.tasks),
        "adapter": info.adapter,
        "parts": info.trainable_pattern,
    }


def _held_note(source: pathlib.Path, base: manifest.Manifest) -> str:
    """Returns what to tell people of how a source's base was held; "" for nothing.

    Exports of ours say it in their recipes, others cannot.

    Raises:
      CheckpointError: It was held otherwise than the base that is named.
    """
    path = recipes.inside(source)
    if not path.is_file():
        if not base.base_dtype:
            return ""
        return (
            f"{source} does not say how its base was held: taken to be of {base.name}"
            f" held as {base.base_dtype}"
        )
    held = recipes.read(path).get("base_dtype", "")
    if held != base.base_dtype:
        raise errors.CheckpointError(
            found=f"{source}, trained on a base with base_dtype = {held!r}",
            expected=f"base {base.name!r}: base_dtype = {base.base_dtype!r}",
            do="Name the base as it was held then: import it with that base_dtype"
            " under another name",
        )
    return ""
