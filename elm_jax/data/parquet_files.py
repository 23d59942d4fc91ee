"""Parquet files: their rows in order, and which of many files hold a split.

Two layouts are known, both of the Hub:

    <config>/<split>/0000.parquet                     its branch of converted files
    <config>/<split>-00000-of-00002.parquet           a dataset's own files; `data`, or
    data/<split>-00000-of-00001.parquet               no folder, where it has one
    <split>.parquet                                   configuration without a name
"""

import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.data import sources

_BATCH_ROWS = 1024
_SHARD = re.compile(
    r"(?P<split>\w[\w.]*?)"
    r"(?:-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?)?\.parquet"
)
_CONVERTED = re.compile(r"\d+\.parquet")
# In such folders the Hub has only the first gigabytes of a dataset.
_PARTIAL = "partial-"
_DEFAULT = "default"


class NotListed(LookupError):
    """Files without the wanted split; the message says what they have."""


def find(paths: Iterable[str], config: str | None, split: str) -> list[str]:
    """Returns the files of one split, in order.

    Args:
      paths: All files of a repository or folder, relative to it, with `/`.
      config: Name of a configuration; None for `default` or the only one. A
        configuration without a name serves for any if it is the only one.
      split: Name of a split.

    >>> find(["plain/train/0000.parquet", "plain/test/0000.parquet"], None, "test")
    ['plain/test/0000.parquet']

    Raises:
      NotListed: There is no such configuration or split, several fit, or files are
        missing.
    """
    paths = sorted(paths)
    configs = _configs(paths)
    if not configs:
        instead = f", but {', '.join(paths[:5])}" if paths else ""
        raise NotListed(f"no Parquet files{instead}")
    splits = configs[_chosen(configs, config)]
    if split not in splits:
        cut = f" (only the first gigabytes: {_PARTIAL}{split})"
        also = cut if f"{_PARTIAL}{split}" in splits else ""
        raise NotListed(f"no {split}{also}: {describe(configs)}")
    files = splits[split]
    counts = {match["count"] for file in files if (match := _shard(file))}
    if counts - {None, f"{len(files):05d}"}:
        raise NotListed(f"{len(files)} of {', '.join(sorted(counts))} files of {split}")
    return files


def _chosen(configs: Mapping[str, Any], config: str | None) -> str:
    if config in configs:
        return str(config)
    names = [name for name in (_DEFAULT, "") if name in configs] or list(configs)
    if config is None and (names[0] in (_DEFAULT, "") or len(names) == 1):
        return names[0]
    if list(configs) == [""]:
        return ""
    problem = (
        "several configurations" if config is None else f"no configuration {config}"
    )
    raise NotListed(f"{problem}: {describe(configs)}")


def describe(configs: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """Returns configurations and splits in one line."""
    return "; ".join(
        f"{config or '(without a name)'} with {', '.join(splits)}"
        for config, splits in configs.items()
    )


def _configs(paths: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Returns the files by configuration, "" for one without a name, and split."""
    converted: dict[str, dict[str, list[str]]] = {}
    original: dict[str, dict[str, list[str]]] = {}
    for path in (path for path in paths if path.endswith(".parquet")):
        *folders, file = path.split("/")
        if any(folder.startswith(".") for folder in folders):
            continue
        match = _shard(path)
        if len(folders) == 2 and (_CONVERTED.fullmatch(file) or not match):
            config, split = folders
            converted.setdefault(config, {}).setdefault(split, []).append(path)
        elif match and len(folders) <= 2:
            config = folders[-1] if folders and folders != ["data"] else ""
            original.setdefault(config, {}).setdefault(match["split"], []).append(path)
    # A folder with both kinds has each row twice: only the converted files are used.
    merged = original | converted
    for config in original.keys() & converted.keys():
        merged[config] = original[config] | converted[config]
    return merged


def _shard(path: str) -> re.Match[str] | None:
    return _SHARD.fullmatch(path.rpartition("/")[2])


def below(folder: pathlib.Path) -> list[str]:
    """Returns the Parquet files below a folder, relative to it; [] without a folder."""
    paths = folder.rglob("*.parquet") if folder.is_dir() else ()
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def rows(paths: Iterable[pathlib.Path]) -> Iterator[sources.Row]:
    """Yields the rows of Parquet files, in order; structs are dictionaries.

    Raises:
      DataError: A file cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    for path in paths:
        try:
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    yield from _rows_of(batch)
        except (pyarrow.ArrowException, OSError, UnicodeError) as error:
            raise errors.DataError(
                found=f"{path} cannot be read: {error}",
                expected="a Parquet file",
                do="Fetch the file again",
            ) from error


def _rows_of(batch: Any) -> list[dict[str, Any]]:
    """Returns a batch's rows; rendering refuses texts that are not UTF-8."""
    import pyarrow

    try:
        return batch.to_pylist()
    except UnicodeError:
        fields = [field.with_type(_as_bytes(field.type)) for field in batch.schema]
        return sources.decoded(batch.cast(pyarrow.schema(fields)).to_pylist())


def _as_bytes(kind: Any) -> Any:
    """Returns an Arrow type with bytes in place of texts."""
    import pyarrow

    if pyarrow.types.is_string(kind):
        return pyarrow.binary()
    if pyarrow.types.is_large_string(kind):
        return pyarrow.large_binary()
    if pyarrow.types.is_list(kind):
        return pyarrow.list_(_as_bytes(kind.value_type))
    if pyarrow.types.is_struct(kind):
        return pyarrow.struct([f.with_type(_as_bytes(f.type)) for f in kind])
    return kind
