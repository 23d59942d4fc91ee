r"""Datasets of the Hugging Face Hub: Parquet files on disk, or the `datasets` package.

Dataset scripts no longer run, so datasets that were scripts are read from the branch
of Parquet files that the Hub makes of them, `refs/convert/parquet`. Its layout is
`<config>/<split>/0000.parquet`. Whoever has no network on the machine that trains
puts a copy of that branch below the data folder:

    hf download allenai/cosmos_qa --repo-type dataset \
      --revision refs/convert/parquet --local-dir DATA/hub/allenai/cosmos_qa
"""

import dataclasses
import importlib.util
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

from elm_jax import errors
from elm_jax.data import sources

PARQUET_BRANCH = "refs/convert/parquet"
_BATCH_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class HubRows:
    """Rows of a Hub dataset.

    Attributes:
      path: Dataset repository, such as `allenai/cosmos_qa`.
      subset: Configuration name; None for the only one.
      revision: A commit hash, or the branch of Parquet files. A branch may change;
        then the texts' hash in a cache's manifest tells, but the cache's key does not.
    """

    path: str
    subset: str | None = None
    revision: str = PARQUET_BRANCH

    @property
    def name(self) -> str:
        """Repository, configuration and revision in one text."""
        subset = f"/{self.subset}" if self.subset else ""
        return f"{self.path}{subset}@{self.revision}"

    def rows(self, split: str, *, data_dir: str) -> Iterator[sources.Record]:
        """Yields the rows from files below the data folder, or downloads them.

        Raises:
          MissingExtraError: There are no files and `datasets` is not installed.
          DataError: A file cannot be read, the Hub cannot be reached, or it has no
            such dataset or split.
        """
        files = self.files(split, data_dir)
        if files:
            yield from _parquet_rows(files)
            return
        if importlib.util.find_spec("datasets") is None:
            raise errors.MissingExtraError(
                errors.explain(
                    found="the package `datasets` is not installed",
                    expected=f"it, to read {self.path} from the Hub, or a copy of the "
                    f"Parquet files in {self.folder(data_dir)}",
                    do="Run `pip install datasets`, or copy the files",
                )
            )
        yield from self._downloaded(split, data_dir)

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns a hash of the files' content, or of what names them on the Hub."""
        contents = [sources.file_hash(path) for path in self.files(split, data_dir)]
        return sources.hash_of(
            "hub", split, self.path, str(self.subset), self.revision, *contents
        )

    def missing(self, split: str, *, data_dir: str) -> str:
        """Returns "" if the rows can be asked for, else what is missing."""
        if self.files(split, data_dir) or importlib.util.find_spec("datasets"):
            return ""
        return (
            f"no Parquet files in {self.folder(data_dir) / split}, and the package "
            f"`datasets` to download {self.path} is not installed"
        )

    def folder(self, data_dir: str) -> pathlib.Path:
        """Returns where a copy of the Parquet files would lie."""
        return pathlib.Path(data_dir) / "hub" / self.path / (self.subset or "default")

    def files(self, split: str, data_dir: str) -> list[pathlib.Path]:
        """Returns the Parquet files of a split that lie below the data folder."""
        return (
            sorted((self.folder(data_dir) / split).glob("*.parquet"))
            if data_dir
            else []
        )

    def _downloaded(self, split: str, data_dir: str) -> Iterator[sources.Row]:
        import datasets  # pyright: ignore[reportMissingImports]

        cache_dir = data_dir or None
        try:
            if self.revision == PARQUET_BRANCH:
                # By URL: the branch has no card that would name its splits.
                branch = urllib.parse.quote(self.revision, safe="")
                folder = f"{self.subset or 'default'}/{split}"
                url = f"hf://datasets/{self.path}@{branch}/{folder}/*.parquet"
                found: Any = datasets.load_dataset(
                    "parquet", data_files={split: url}, split=split, cache_dir=cache_dir
                )
            else:
                found = datasets.load_dataset(
                    self.path,
                    self.subset,
                    split=split,
                    revision=self.revision,
                    cache_dir=cache_dir,
                )
            yield from found
        except (OSError, ValueError) as error:
            raise errors.DataError(
                errors.explain(
                    found=f"{split} of {self.name} cannot be read: {error}",
                    expected="a Hub dataset with this configuration and split",
                    do="Check the connection and the name; or put a copy of its "
                    f"Parquet files into {self.folder(data_dir) / split}",
                )
            ) from error


def _parquet_rows(paths: list[pathlib.Path]) -> Iterator[sources.Row]:
    """Yields the rows of Parquet files, in order; structs are dictionaries."""
    import pyarrow
    from pyarrow import parquet

    for path in paths:
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    yield from _rows_of(batch)
        except (pyarrow.ArrowException, OSError, UnicodeError) as error:
            raise errors.DataError(
                errors.explain(
                    found=f"{path} cannot be read: {error}",
                    expected="a Parquet file",
                    do="Fetch the file again",
                )
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
