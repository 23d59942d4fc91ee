"""Where rows come from: generated text, files of any format, TFDS.

A source yields rows as plain dictionaries, in one fixed order per split; a row's
place in that order is its example id. Constructing a source touches no disk.
"""

import csv
import dataclasses
import functools
import hashlib
import inspect
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from elm_jax import errors
from elm_jax.data import archives, records, row_files, tensorflow_imports

# Modules of tasks use these names from this module.
Row = records.Row
Record = records.Record
Prompted = records.Prompted
Skipped = records.Skipped
Bad = records.Bad
json_lines = row_files.json_lines
csv_rows = row_files.csv_rows


class Source(Protocol):
    """Named splits of records, with a fingerprint that is cheap to compute.

    A source may also have `missing(split, *, data_dir) -> str`: "" if it has the
    split, else what is missing and how to get it.
    """

    def rows(self, split: str, *, data_dir: str) -> Iterator[Record]:
        """Yields the rows of a split in a fixed order."""
        ...

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns a hash that changes whenever the rows of the split may change."""
        ...


@dataclasses.dataclass(frozen=True)
class GeneratedRows:
    """Rows made by a pure function of the split's name.

    Attributes:
      fn: `split -> rows`, a function or a `functools.partial` of one; equal calls
        give equal rows.
      version: Raised whenever the rows change for a reason outside the module of
        `fn`; changes inside that module are noticed by themselves.
    """

    fn: Callable[[str], Iterable[Row]]
    version: str

    def rows(self, split: str, *, data_dir: str) -> Iterator[Record]:
        """Yields what `fn(split)` gives; `data_dir` is not used."""
        del data_dir
        yield from self.fn(split)

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns a hash of the function's name and module text and the version."""
        del data_dir
        return hash_of("generated", split, self.version, code_of(self.fn))


# What parsers raise if a file is damaged or has another format.
FILE_ERRORS = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(*archives.ERRORS, csv.Error),
    RecursionError,  # deeply nested JSON
)

Parser = Callable[[Sequence[pathlib.Path], str], Iterable[Record]]
"""`(paths, split) -> rows`."""


@dataclasses.dataclass(frozen=True)
class FileRows:
    """Rows that a parser reads from files below the data folder.

    Attributes:
      parse: `(paths, split) -> rows`, given the split's paths in the order of `files`.
      files: Split name to its files, relative to the data folder. A file may be
        given as `one|other`: the first that exists is read.
      origin: Where a user gets the files; part of the error if they are missing.
      is_prompted: Whether the parser yields `Prompted` records.
    """

    parse: Parser
    files: Mapping[str, Sequence[str]]
    origin: str
    is_prompted: bool = False

    def rows(self, split: str, *, data_dir: str) -> Iterator[Record]:
        """Yields the parsed rows of a split.

        Raises:
          DataError: The folder, the split or a file is missing, or a file cannot
            be parsed.
        """
        paths = self.paths(split, data_dir=data_dir)
        try:
            yield from self.parse(paths, split)
        except FILE_ERRORS as error:
            names = ", ".join(map(str, paths))
            raise errors.DataError(
                found=f"{names} cannot be read as {name_of(self.parse)}: "
                f"{type(error).__name__}: {error}",
                expected=f"the authors' file, as {self.origin} has it",
                do="Fetch the file again, or correct it",
            ) from error

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns a hash of the files' content and the parser's module text."""
        paths = self.paths(split, data_dir=data_dir)
        contents = [file_hash(path) for path in paths]
        return hash_of("files", split, code_of(self.parse), *contents)

    def missing(self, split: str, *, data_dir: str) -> str:
        """Returns "" if the files exist, else which are missing, and their origin."""
        folder = pathlib.Path(data_dir)
        lacking = [
            names
            for names in self.files.get(split, [split])
            if not any((folder / name).is_file() for name in names.split("|"))
        ]
        if data_dir and not lacking:
            return ""
        return f"no {', '.join(lacking) or 'data folder'}; from {self.origin}"

    def paths(self, split: str, *, data_dir: str) -> list[pathlib.Path]:
        """Returns the existing paths of a split's files, or raises a DataError."""
        if split not in self.files:
            raise _no_split(split, self.files)
        folder = pathlib.Path(data_dir)
        if not data_dir or not folder.is_dir():
            raise errors.DataError(
                found=f"no data folder {data_dir!r}",
                expected=f"a folder that holds {', '.join(self.files[split])}",
                do=f"Name the folder (DATA_DIR); get the files from {self.origin}",
            )
        return [self._existing(folder, names) for names in self.files[split]]

    def _existing(self, folder: pathlib.Path, names: str) -> pathlib.Path:
        for name in names.split("|"):
            if (folder / name).is_file():
                return folder / name
        raise errors.DataError(
            found=f"no file {' or '.join(names.split('|'))} in {folder}",
            expected="the authors' file of this split",
            do=f"Get it from {self.origin} and put it there",
        )


@dataclasses.dataclass(frozen=True)
class TfdsRows:
    """Rows of a dataset that TFDS has prepared below the data folder.

    Reads, and never downloads: prepare it with `tfds build NAME --data_dir DIR`.

    Attributes:
      name: Folder below the data folder: `dataset/version` or
        `dataset/config/version`, as TFDS lays them out.
    """

    name: str

    def rows(self, split: str, *, data_dir: str) -> Iterator[Record]:
        """Yields the rows with bytes decoded to text; imports TensorFlow."""
        tfds = tensorflow_imports.import_tfds()
        builder = tfds.builder_from_directory(str(self._folder(data_dir)))
        if split not in builder.info.splits:
            raise _no_split(split, builder.info.splits)
        config = tfds.ReadConfig(interleave_cycle_length=1)
        dataset: Any = builder.as_dataset(
            split=split,  # pyright: ignore[reportCallIssue] - hidden by a decorator
            shuffle_files=False,
            read_config=config,
        )
        yield from map(decoded, dataset.as_numpy_iterator())

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns a hash of TFDS's own description of the prepared files."""
        folder = self._folder(data_dir)
        described = [
            file_hash(folder / name)
            for name in ("dataset_info.json", "features.json")
            if (folder / name).is_file()
        ]
        return hash_of("tfds", split, self.name, *described)

    def missing(self, split: str, *, data_dir: str) -> str:
        """Returns "" if TFDS has prepared the dataset there, else how to prepare it."""
        del split
        folder = pathlib.Path(data_dir) / self.name
        if data_dir and (folder / "dataset_info.json").is_file():
            return ""
        config = "/".join(self.name.split("/")[:-1])
        return f"not in {folder}; `tfds build {config} --data_dir {data_dir or 'DIR'}`"

    def _folder(self, data_dir: str) -> pathlib.Path:
        folder = pathlib.Path(data_dir) / self.name
        if not (folder / "dataset_info.json").is_file():
            raise errors.DataError(
                found=f"no prepared TFDS dataset in {folder}",
                expected="a folder with dataset_info.json, as TFDS writes it",
                do=f"Run `tfds build {self.name.split('/')[0]} "
                f"--data_dir {data_dir or 'DIR'}`, or name the folder that has it",
            )
        return folder


def decoded(value: Any) -> Any:
    """Returns numpy's and TFDS's values as Python values, bytes as text."""
    if isinstance(value, Mapping):
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, bytes):
        # As for files: rendering refuses what stands for bytes that are not UTF-8.
        return value.decode("utf-8", "surrogateescape")
    if hasattr(value, "tolist"):
        value = value.tolist()
        return decoded(value) if isinstance(value, (bytes, list)) else value
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return value


def _no_split(split: str, splits: Iterable[str]) -> errors.DataError:
    return errors.DataError(
        found=f"no split {split!r}",
        expected=f"one of {', '.join(sorted(splits)) or 'none'}",
        do=errors.did_you_mean(split, splits),
    )


def hash_of(*parts: str) -> str:
    """Returns 16 hex digits of the SHA-256 of the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def name_of(fn: Callable[..., Any]) -> str:
    """Returns a function's own name, also of one with bound arguments."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn.__name__


def code_of(fn: Callable[..., Any]) -> str:
    """Returns a function's name, bound arguments and a hash of its module's text.

    For a module of a package, such as `tasks`, of all modules beside it, which may be
    what it calls. What is in this room itself is hashed for each cache.
    """
    bound = ""
    while isinstance(fn, functools.partial):
        bound += repr((fn.args, sorted(fn.keywords.items())))
        fn = fn.func
    return f"{fn.__module__}.{fn.__qualname__}{bound}:{_text_hash(fn)}"


def _text_hash(fn: Callable[..., Any]) -> str:
    source = inspect.getsourcefile(fn)
    if not source:
        return ""
    path = pathlib.Path(source)
    package, _, _ = fn.__module__.rpartition(".")
    if not package or package == __package__:
        return file_hash(path)
    modules = sorted(path.parent.glob("*.py"))
    return hash_of(*(f"{module.name} {file_hash(module)}" for module in modules))


def file_hash(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file's content; a file is read once while unchanged."""
    stat = path.stat()
    return _content_hash(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _content_hash(path: pathlib.Path, size: int, modified_ns: int) -> str:
    # Size and time of change are arguments so that a changed file is hashed anew.
    del size, modified_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
