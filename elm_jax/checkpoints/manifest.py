"""What an expert says of itself: `manifest.json` beside its parameters."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import stat
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from elm_jax import errors, fields, paths
from elm_jax.disk import files, json_files, seals
from elm_jax.expert_kinds import Kind
from elm_jax.limits import patterns

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
# May be missing.
_ADDED_LATER = ("training", "vocabulary", "params_fingerprint", "digests", "licences")
# What a training tells of its way, and not of what came out: two runs of one recipe
# that were interrupted at other moments differ in these alone.
_DIARY = ("metrics", "operative_config")
# Beside `params_fingerprint` digests tell nothing new; what somebody has found out of a
# licence changes no expert.
_WITHOUT_SAY = (*_DIARY, "digests", "licences")
_RECIPE = (
    *("name", "kind", "base_fingerprint", "model", "trainable_pattern", "adapter"),
    *("tasks", "data", "steps"),
)
# What a merge tells of its experts that differs from seed to seed. The recipes of parts
# that are merges are among the `recipes` of all.
_OF_ONE_SEED = ("fingerprints", "seeds", "parts")
# What a merge whose coefficients were searched tells beside the search.
_ASKED_OF_SEARCH = ("experts", "recipes", "measured")
_PACKAGES = ("elm_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts that make an expert usable and repeatable.

    Attributes:
      name: Of the expert, unique in a library.
      kind: `base` is a whole model that experts build on.
      base_name: Name of the base; a base's own.
      base_fingerprint: `trees.fingerprint` of the base's parameters.
      model: The model's configuration.
      trainable_pattern: Which parameter names the expert holds.
      adapter: The adapter's specification, None without adapters.
      tasks: Names of the tasks it was trained on.
      data: Counts and hashes of its training data, by task.
      licences: Of its training data by task, as those who publish it say; without the
        tasks of which nobody knows.
      steps: Updates done.
      seed: Of the training; of a merge that of its first expert.
      versions: Of packages, by name.
      training: Settings that shaped it, by name; {} if nobody knows.
      vocabulary: Of the tokens it was trained on (`vocabularies.describe`): its
        `fingerprint`, `size` and `extra_ids`, and where it came from, `set_by`. {} if
        nobody knows.
      params_fingerprint: `trees.fingerprint` of the expert's own parameters; "" if it
        was saved before this was recorded.
      digests: `digests.of_array` of each tensor by name; {} if it was saved before
        these were recorded.
      metrics: At the end of the training, finite numbers by name.
      operative_config: Text of the gin configuration it came from.
      format_version: Of this file.
    """

    name: str
    kind: Kind
    base_name: str
    base_fingerprint: str
    model: dict[str, Any]
    trainable_pattern: str
    adapter: dict[str, Any] | None = None
    tasks: tuple[str, ...] = ()
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    licences: dict[str, str] = dataclasses.field(default_factory=dict)
    steps: fields.CountOrNone = 0
    seed: fields.Seed = 0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    vocabulary: dict[str, Any] = dataclasses.field(default_factory=dict)
    params_fingerprint: str = ""
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    operative_config: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def base_dtype(self) -> str:
        """`T5Config.base_dtype` of the model; "" also where none is recorded."""
        return f"{self.model.get('base_dtype') or ''}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """The expert's identity: 16 hex digits, a hash of its recipe and parameters.

        Metrics and the text of the configuration are left out: they tell how a
        training went, and differ where one was interrupted. Digests of tensors are
        left out, since the fingerprint of the parameters is in; so are licences.
        """
        facts = dataclasses.asdict(self)
        recipe = {
            name: value for name, value in facts.items() if name not in _WITHOUT_SAY
        }
        text = json.dumps(recipe, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def base_label(self) -> str:
        """Name and fingerprint of the base, and how it is held, for people."""
        held = held_as(self.base_dtype)
        return f"{self.base_name}, fingerprint {self.base_fingerprint}{held}"

    @functools.cached_property
    def recipe(self) -> str:
        """What it is trained on and how, its seed aside: 16 hex digits.

        Of a merge, what its experts are trained on, and how they are merged, or how
        that was searched; "" up to release 0.1, whose merges know their experts by the
        parameters alone.
        """
        facts = {name: getattr(self, name) for name in _RECIPE}
        if self.kind == "merged":
            merge = self._merge
            recipes = merge.get("recipes")
            if not isinstance(recipes, list) or not recipes or not all(recipes):
                return ""
            facts["data"] = {k: v for k, v in merge.items() if k not in _OF_ONE_SEED}
            if isinstance(search := merge.get("search"), dict):
                # What was found differs from seed to seed, down to how many experts
                # have a place in the adapters of a sum.
                del facts["adapter"]
                facts["data"] = {
                    **{name: merge.get(name) for name in _ASKED_OF_SEARCH},
                    "search": [search.get("asked"), search.get("rows")],
                }
        else:
            training = {k: v for k, v in self.training.items() if "seed" not in k}
            facts["training"] = training
            facts["vocabulary"] = self.vocabulary.get("fingerprint")
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def training_seed(self) -> int | None:
        """The seed of the training; of a merge that of all of its experts.

        None where they have several, or nobody knows.
        """
        if self.kind != "merged":
            return self.seed
        seeds = self._merge.get("seeds")
        is_one = isinstance(seeds, list) and seeds == [self.seed] * len(seeds)
        return self.seed if is_one and seeds else None

    @property
    def _merge(self) -> dict[str, Any]:
        merge = self.data.get("merge")
        return merge if isinstance(merge, dict) else {}


def held_as(base_dtype: str) -> str:
    """Returns how a base is held, for texts after its name; "" for floats."""
    return f", held as {base_dtype}" if base_dtype else ""


def installed_versions() -> dict[str, str]:
    """Returns the versions of the packages that shape a training."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a bare clone
            versions[name] = "not installed"
    return versions


def data_fingerprint(manifest: Manifest, task: str) -> str | None:
    """Returns the fingerprint of the rows of a task that an expert was trained on.

    None for experts whose manifest tells of none, such as imported ones.
    """
    facts = manifest.data.get(task)
    return facts.get("fingerprint") if isinstance(facts, dict) else None


def write_manifest(folder: pathlib.Path, manifest: Manifest) -> None:
    """Writes `manifest.json` into a folder, whole or not at all.

    Raises:
      CheckpointError: A value is no JSON, such as a metric that is not finite, or what
        should be a name is none.
      ConfigError: The file cannot be written.
    """
    content = dataclasses.asdict(manifest)
    if odd := _odd_names(content):
        raise errors.CheckpointError(
            found=f"manifest of {manifest.name!r:.100}: {'; '.join(odd)}",
            expected=f"in its place {paths.NAME_RULE}",
            do="Choose another name",
        )
    try:
        text = json.dumps(seals.seal(content), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise errors.CheckpointError(
            found=f"manifest of {manifest.name!r}: {error}",
            expected="text, finite numbers, and lists and mappings of them",
            do="Convert arrays with float() or str(), and drop what is not finite",
        ) from error
    files.write_text(folder / FILE_NAME, text + "\n")


def read_manifest(folder: pathlib.Path) -> Manifest:
    """Returns the manifest of an expert's folder.

    Every use of a folder begins here: what is in it must be in it.

    Raises:
      CheckpointError: It is missing, no JSON, of another version, its fields are
        not those of a manifest (all that is wrong is named at once), a value was
        changed after it was written, or there is a link in the folder.
    """
    path = folder / FILE_NAME
    check_holds_its_files(folder)
    try:
        text = json_files.read_bytes(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return parse(text, path)


def check_holds_its_files(folder: pathlib.Path) -> None:
    """Raises CheckpointError if something in a folder is neither file nor folder.

    A link would be followed to where its writer wants, a pipe waited for. The folder
    itself may be a link, as may those around it.
    """
    for path, names, file_names in os.walk(folder):
        for name in [*names, *file_names]:
            mode = os.lstat(os.path.join(path, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                file_type = "a link" if stat.S_ISLNK(mode) else "no file"
                raise errors.CheckpointError(
                    found=f"{os.path.join(path, name)!r}, which is {file_type}",
                    expected=f"an expert or base whose files all lie in {folder}",
                    do="Put the file itself there (`cp -rL` copies so), or remove"
                    " it; the expert's folder itself may be a link",
                )


def parse(text: bytes, path: object) -> Manifest:
    """Returns the manifest that a file holds.

    Args:
      text: Its content, UTF-8.
      path: Its place, for messages.

    Raises:
      CheckpointError: It is no JSON, of another version, or its fields are not those of
        a manifest, or were changed after it was written.
    """
    try:
        sealed = json_files.parse(text)
    except ValueError as error:
        raise _unreadable(path, error) from error
    content = _unsealed(sealed)
    if problems := _problems(content):
        raise errors.CheckpointError(
            found=f"{path}: {'; '.join(problems)}",
            expected=f"the fields of a manifest of version {FORMAT_VERSION}",
            do="Save the expert again, or read it with the elm_jax that wrote it",
        )
    if odd := _odd_names(content):
        raise errors.CheckpointError(
            found=f"{path}: {'; '.join(odd)}",
            expected=f"in its place {paths.NAME_RULE}",
            do="If you trust the expert, give it such a name in the file",
        )
    try:
        seals.open_sealed(sealed)
    except ValueError as error:
        raise errors.CheckpointError(
            found=f"{path}: {error}",
            expected="every byte as it was saved",
            do="Copy the folder again; if you changed the file yourself, and know"
            f" that it is right, remove its {seals.KEY!r} as well",
        ) from error
    return Manifest(**(content | {"tasks": tuple(content["tasks"])}))


def _unsealed(sealed: Any) -> Any:
    if not isinstance(sealed, dict):
        return sealed
    return {name: value for name, value in sealed.items() if name != seals.KEY}


def _unreadable(path: object, error: Exception) -> errors.CheckpointError:
    return errors.CheckpointError(
        found=f"{path} cannot be read: {error}",
        expected="an expert's folder, with manifest.json and params/",
        do="Correct the path, or save or copy the expert again",
    )


def _problems(content: Any) -> list[str]:
    if isinstance(content, dict) and content.get("format_version") != FORMAT_VERSION:
        return [f"format_version is {content.get('format_version')!r:.60}"]
    misfits = json_files.misfits(content, Manifest, added_later=_ADDED_LATER)
    return (
        misfits
        or _wrong_pattern(content["trainable_pattern"])
        or [
            f"{field}: {problem}"
            for field, part, kind in (
                ("vocabulary", content.get("vocabulary"), _Vocabulary),
                ("training", content.get("training"), _Training),
                ("data", content["data"], _Data),
            )
            if part
            for problem in json_files.misfits(part, kind, known_only=True)
        ]
    )


def _wrong_pattern(pattern: str) -> list[str]:
    try:
        patterns.found_in(pattern, ())
    except patterns.PatternError as error:
        return [f"trainable_pattern is {json_files.shown(pattern)}, {error.reason}"]
    return []


class _Vocabulary(TypedDict):
    """What others read of `Manifest.vocabulary`."""

    fingerprint: str
    size: int
    extra_ids: fields.Sentinels


class _Tokens(TypedDict):
    feature_lengths: NotRequired[dict[str, int]]


class _Training(TypedDict):
    """What others read of `Manifest.training`, where it is."""

    tokens: NotRequired[_Tokens]


class _Data(TypedDict):
    """What others read of `Manifest.data`, where it is."""

    merge: NotRequired[dict[str, Any]]


def _odd_names(content: Mapping[str, Any]) -> list[str]:
    """Returns what should be a name in a manifest's content, and is none."""
    name_fields = [(name, content[name]) for name in ("name", "base_name")]
    names = [*name_fields, *(("a task", task) for task in content["tasks"])]
    return [
        f"{kind} is {text!r:.100}" for kind, text in names if not paths.is_name(text)
    ]
