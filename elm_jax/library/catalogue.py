"""The experts of a library: one JSON line each in `catalogue.jsonl`."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from elm_jax import errors, expert_kinds, paths
from elm_jax.checkpoints import manifest
from elm_jax.disk import files, json_files
from elm_jax.library import lock

FILE_NAME = "catalogue.jsonl"
KINDS = tuple(kind for kind in expert_kinds.KINDS if kind != "base")
STATUSES = ("active", "retired")
_MOST_BYTES = 2**30  # enough for some million lines
_ADDED_LATER = {"fingerprint", "base_dtype"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the catalogue, taken from the expert's manifest.

    Attributes:
      name: Unique in the library, retired experts included.
      path: The expert's folder, relative to the library's.
      kind: One of `KINDS`.
      base_name: The base it belongs to, for people.
      base_fingerprint: The base it belongs to; one for the whole library.
      tasks: What it was trained on.
      steps: How many steps it was trained.
      status: `active`, or `retired`: kept and listed, but never retrieved.
      fingerprint: `Manifest.fingerprint`, the expert's identity; "" in lines that
        release 0.1 wrote.
      base_dtype: `T5Config.base_dtype` of its base, one for the whole library; lines
        have it only where it is not "".
    """

    name: str
    path: str
    kind: str
    base_name: str
    base_fingerprint: str
    tasks: tuple[str, ...]
    steps: int
    status: str = "active"
    fingerprint: str = ""
    base_dtype: str = ""


class Catalogue:
    """A library's catalogue; every method reads the file as it is at that moment.

    Args:
      library_dir: The library's folder. It need not exist before `add`.
    """

    def __init__(self, library_dir: str | pathlib.Path) -> None:
        self._library_dir = pathlib.Path(library_dir)
        self._path = self._library_dir / FILE_NAME

    def entries(self) -> tuple[Entry, ...]:
        """Returns all experts, retired ones too, in the order they were added.

        Raises:
          LibraryError: No library is there, a line is corrupt, or two have one name.
        """
        try:
            content = json_files.read_bytes(self._path, most_bytes=_MOST_BYTES)
            lines = content.decode("utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise errors.LibraryError(
                found=f"no catalogue at {self._path}: {error}",
                expected="a library folder with at least one expert",
                do="Build the library first (elm_library), or correct the folder",
            ) from error
        entries = tuple(_parse(x, n, self._path) for n, x in enumerate(lines, 1))
        _check_names(entries, self._path)
        return entries

    def experts(self) -> tuple[str, ...]:
        """Returns the names of the active experts in the order they were added."""
        return tuple(e.name for e in self.entries() if e.status == "active")

    def get(self, name: str) -> Entry:
        """Returns the expert of that name, active or retired.

        Raises:
          LibraryError: The library has no expert of this name.
        """
        entries = {entry.name: entry for entry in self.entries()}
        if name not in entries:
            raise errors.LibraryError(
                found=f"no expert {name!r} in {self._path}",
                expected="the name of an expert in this library",
                do=errors.did_you_mean(name, entries),
            )
        return entries[name]

    def expert_dir(self, name: str) -> pathlib.Path:
        """Returns the absolute folder of an expert."""
        return self._folder_of(self.get(name))

    def checked_dir(self, name: str) -> pathlib.Path:
        """Returns the absolute folder of an expert, which holds the one listed.

        Raises:
          CheckpointError: No expert is in this folder.
          LibraryError: There is none of this name, or the folder holds another one, as
            `check` tells it.
        """
        entry = self.get(name)
        self._check_folder(entry)
        return self._folder_of(entry)

    def check(self) -> None:
        """Raises LibraryError if the folder of an active expert holds another expert.

        For example one that was trained again since. Lines of release 0.1 have no
        fingerprint to compare.

        Raises:
          CheckpointError: An expert is not in its folder.
        """
        for entry in self.entries():
            if entry.status == "active":
                self._check_folder(entry)

    def _folder_of(self, entry: Entry) -> pathlib.Path:
        path = self._library_dir.absolute() / entry.path
        return pathlib.Path(os.path.normpath(path))

    def _check_folder(self, entry: Entry) -> None:
        folder = self._folder_of(entry)
        described = self._describe(folder)
        if not _is_same(described, entry):
            raise errors.LibraryError(
                found=f"{folder} holds another expert ({described.fingerprint})"
                f" than {self._path} lists",
                expected=f"expert {entry.name!r} with fingerprint {entry.fingerprint}",
                do="Build a new library (library_dir) from the experts as they"
                " are now, or put the listed one back",
            )

    def add(self, expert_dir: str | pathlib.Path) -> Entry:
        """Adds the expert of a folder, whose manifest says what it is.

        Raises:
          CheckpointError: The manifest is missing or corrupt.
          FingerprintError: The expert belongs to another base than the library's, or
            to that base held in another `base_dtype`.
          LibraryError: Its name is taken, or it is not an expert.
        """
        entry = self._describe(expert_dir)
        with lock.hold(self._library_dir):
            self._append(entry)
        return entry

    def list_once(self, expert_dir: str | pathlib.Path) -> None:
        """Adds the expert of a folder, unless this very expert is listed already.

        Raises:
          ElmError: As `add` does; also if another expert of its name is listed, even if
            that one was in the same folder.
        """
        entry = self._describe(expert_dir)
        with lock.hold(self._library_dir):
            if not any(_is_same(entry, old) for old in self._entries_if_any()):
                self._append(entry)

    def check_new(self, expert_dirs: Iterable[pathlib.Path]) -> list[pathlib.Path]:
        """Returns the folders whose experts are not listed yet; changes nothing.

        Raises:
          ElmError: As `list_once` would, of the first that cannot be listed.
        """
        entries = self._entries_if_any()
        new: list[pathlib.Path] = []
        for folder in expert_dirs:
            entry = self._describe(folder)
            if not any(_is_same(entry, old) for old in entries):
                _check_new(entry, entries, self._path)
                entries = (*entries, entry)
                new.append(folder)
        return new

    def retire(self, name: str) -> Entry:
        """Takes an expert out of retrieval; its line, files and keys stay.

        Raises:
          LibraryError: There is no such expert.
        """
        with lock.hold(self._library_dir):
            retired = dataclasses.replace(self.get(name), status="retired")
            self._write(tuple(retired if e.name == name else e for e in self.entries()))
        return retired

    def _describe(self, expert_dir: str | pathlib.Path) -> Entry:
        info = manifest.read_manifest(pathlib.Path(expert_dir))
        return Entry(
            name=info.name,
            path=os.path.relpath(expert_dir, self._library_dir),
            kind=info.kind,
            base_name=info.base_name,
            base_fingerprint=info.base_fingerprint,
            tasks=tuple(info.tasks),
            steps=info.steps,
            fingerprint=info.fingerprint,
            base_dtype=info.base_dtype,
        )

    def _entries_if_any(self) -> tuple[Entry, ...]:
        return self.entries() if self._path.exists() else ()

    def _append(self, entry: Entry) -> None:
        entries = self._entries_if_any()
        _check_new(entry, entries, self._path)
        self._write((*entries, entry))

    def _write(self, entries: tuple[Entry, ...]) -> None:
        lines = [json.dumps(_fields(entry)) for entry in entries]
        files.write_text(self._path, "".join(f"{line}\n" for line in lines))


def _fields(entry: Entry) -> dict[str, Any]:
    fields = dataclasses.asdict(entry)
    if not entry.base_dtype:  # as lines were before a base could be held otherwise
        del fields["base_dtype"]
    return fields


def _parse(line: str, number: int, path: pathlib.Path) -> Entry:
    fields: Any = None
    try:
        fields = json_files.parse(line)
        problem = _find_problem(fields)
    except ValueError as error:
        problem = str(error)
    if problem:
        names = ", ".join(field.name for field in dataclasses.fields(Entry))
        raise errors.LibraryError(
            found=f"line {number} of {path} is corrupt ({problem}): {line[:80]!r}",
            expected=f"one JSON object with {names}",
            do="Repair or delete the line, and add the expert again",
        )
    return Entry(**{**fields, "tasks": tuple(fields["tasks"])})


def _check_names(entries: tuple[Entry, ...], path: pathlib.Path) -> None:
    first_lines: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        if first_lines.setdefault(entry.name, number) != number:
            raise errors.LibraryError(
                found=f"lines {first_lines[entry.name]} and {number} of {path} both"
                f" list {entry.name!r}",
                expected="a name of its own for every expert, retired ones too",
                do="Delete the line that is wrong",
            )


def _find_problem(fields: Any) -> str:
    """Returns what is wrong with the JSON value of an entry, or an empty text."""
    if problems := json_files.misfits(fields, Entry, added_later=_ADDED_LATER):
        return "; ".join(problems)
    names = [fields["name"], fields["base_name"], *fields["tasks"]]
    for name in names:
        if not paths.is_name(name):
            return f"{name!r:.100} is not {paths.NAME_RULE}"
    if problem := paths.Kind("a path").wrong(fields["path"]):
        return f"path is {fields['path']!r:.100}, not {problem}"
    if fields["kind"] not in KINDS:
        return f"kind is {fields['kind']!r}"
    if fields["status"] not in STATUSES:
        return f"status is {fields['status']!r}"
    return ""


def _show(entry: Entry) -> str:
    return f"{entry.kind} expert {entry.name!r} ({entry.path}, {entry.fingerprint})"


def _show_base(entry: Entry) -> str:
    held = manifest.held_as(entry.base_dtype)
    return f"{entry.base_name} ({entry.base_fingerprint}){held}"


def _is_same(entry: Entry, old: Entry) -> bool:
    """Returns whether an expert is the one that a line lists, in the same folder.

    Lines of release 0.1 have no fingerprint; there, all other fields are compared.
    """
    fingerprint = entry.fingerprint if old.fingerprint else ""
    like_old = {"status": old.status, "fingerprint": fingerprint}
    return dataclasses.replace(entry, **like_old) == old


def _check_new(entry: Entry, entries: tuple[Entry, ...], path: pathlib.Path) -> None:
    if entry.kind not in KINDS:
        raise errors.LibraryError(
            found=f"{entry.name!r} of kind {entry.kind!r} at {entry.path}",
            expected=f"an expert, of kind {', '.join(KINDS)}",
            do="Give the folder of an expert; a base does not go into a library",
        )
    for old_entry in entries:
        if old_entry.name == entry.name:
            raise errors.LibraryError(
                found=f"{_show(entry)} for {path}, which lists {_show(old_entry)}",
                expected="a name of its own for every expert, retired ones too",
                do="Train it under another name (expert_name), leave it out, or"
                " build another library (library_dir), such as one for each seed",
            )
    if not entries:
        return
    if _base(entry) != _base(entries[0]):
        raise errors.FingerprintError(
            found=f"expert {entry.name!r} of base {_show_base(entry)}",
            expected=f"base {_show_base(entries[0])}, as all of {path}",
            do="Keep one library per base and base_dtype",
        )


def _base(entry: Entry) -> tuple[str, str]:
    return entry.base_fingerprint, entry.base_dtype
