r"""Datasets of the Hugging Face Hub: Parquet files on disk, or fetched from there.

Dataset scripts no longer run, so datasets that were scripts are read from the branch
of Parquet files that the Hub makes of them, `refs/convert/parquet`; where a dataset
has lost it, from Parquet files of its own. Which files hold a split is found by
listing them. If the machine that trains has no network, put a copy of either below the
data folder:

    hf download allenai/cosmos_qa --repo-type dataset \
      --revision refs/convert/parquet --local-dir DATA/hub/allenai/cosmos_qa
"""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from elm_jax import errors
from elm_jax.data import parquet_files, sources

PARQUET_BRANCH = "refs/convert/parquet"
_OWN_BRANCH = "main"


class Remote(Protocol):
    """Where repositories of datasets are listed and fetched; hashable."""

    def list_files(self, repository: str, revision: str) -> Sequence[str]:
        """Returns all files of a revision.

        Raises:
          LookupError: There is no such repository or revision.
          Exception: The Hub did not answer.
        """
        ...

    def fetch(self, repository: str, revision: str, file: str) -> str:
        """Returns the path of a local copy of a file, or raises an error."""
        ...


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """The Hub itself; fetched files are in huggingface_hub's own cache."""

    def list_files(self, repository: str, revision: str) -> Sequence[str]:
        """See `Remote`."""
        import huggingface_hub  # pyright: ignore[reportMissingImports]
        from huggingface_hub import errors as hub  # pyright: ignore

        try:
            return huggingface_hub.list_repo_files(
                repository, repo_type="dataset", revision=revision
            )
        except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
            raise LookupError(_first_line(error)) from error

    def fetch(self, repository: str, revision: str, file: str) -> str:
        """See `Remote`."""
        import huggingface_hub  # pyright: ignore[reportMissingImports]

        return huggingface_hub.hf_hub_download(
            repository, file, repo_type="dataset", revision=revision
        )


@functools.cache
def hugging_face() -> HuggingFace | None:
    """Returns the Hub, or None if huggingface_hub is not installed."""
    return HuggingFace() if importlib.util.find_spec("huggingface_hub") else None


@dataclasses.dataclass(frozen=True)
class HubRows:
    """Rows of a Hub dataset.

    Attributes:
      path: Dataset repository, such as `allenai/cosmos_qa`.
      subset: Configuration name; None for `default` or the only one.
      revision: A commit hash, or the branch of Parquet files; if that is missing, the
        dataset's own files are used. A branch may change. Then the hash of the texts
        in a cache's manifest differs, but the cache's key does not.
      has_mirrors: Whether other repositories have the same rows. Then this one is only
        used after its list of files was read.
      remote: Where it is fetched from; None for the Hub.
    """

    path: str
    subset: str | None = None
    revision: str = PARQUET_BRANCH
    has_mirrors: bool = False
    remote: Remote | None = dataclasses.field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Repository, configuration and revision in one text."""
        subset = f"/{self.subset}" if self.subset else ""
        return f"{self.path}{subset}@{self.revision}"

    def rows(self, split: str, *, data_dir: str) -> Iterator[sources.Record]:
        """Yields the rows from files below the data folder, or fetches them.

        Raises:
          MissingExtraError: There are no files and huggingface_hub is not installed.
          DataError: A file cannot be read, the Hub cannot be reached, or it has no
            such dataset or split; what it has is listed.
        """
        yield from parquet_files.rows(self.files(split, data_dir) or self._fetch(split))

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns a hash of the files' content, or of their place on the Hub."""
        contents = [sources.file_hash(path) for path in self.files(split, data_dir)]
        return sources.hash_of(
            "hub", split, self.path, str(self.subset), self.revision, *contents
        )

    def missing(self, split: str, *, data_dir: str) -> str:
        """Returns "" if the rows can be read, otherwise what is missing."""
        try:
            if self._local(split, data_dir):
                return ""
            problem = f"no Parquet files in {self._root(data_dir)}"
        except parquet_files.NotListed as error:
            problem = f"in {self._root(data_dir)} {error}"
        remote = self._remote()
        if remote is None:
            return (
                f"{problem}, and the package `huggingface_hub` to fetch {self.path} is"
                " not installed"
            )
        if not self.has_mirrors:
            return ""
        listings = [
            _find(remote, self, revision, split) for revision in self._revisions()
        ]
        # If one did not answer, whether it has the split is seen when it is read.
        if any(listing.files or not listing.answered for listing in listings):
            return ""
        return "; ".join(listing.reason for listing in listings)

    def folder(self, data_dir: str) -> pathlib.Path:
        """Returns the folder of the splits in a copy of the branch of Parquet files."""
        return self._root(data_dir) / (self.subset or "default")

    def files(self, split: str, data_dir: str) -> list[pathlib.Path]:
        """Returns the Parquet files of a split below the data folder."""
        try:
            return self._local(split, data_dir)
        except parquet_files.NotListed:
            return []

    def _root(self, data_dir: str) -> pathlib.Path:
        return pathlib.Path(data_dir) / "hub" / self.path

    def _local(self, split: str, data_dir: str) -> list[pathlib.Path]:
        root = self._root(data_dir)
        paths = parquet_files.below(root) if data_dir else []
        names = parquet_files.find(paths, self.subset, split) if paths else []
        return [root / path for path in names]

    def _remote(self) -> Remote | None:
        return self.remote or hugging_face()

    def _revisions(self) -> tuple[str, ...]:
        is_branch = self.revision == PARQUET_BRANCH
        return (self.revision, _OWN_BRANCH) if is_branch else (self.revision,)

    def _fetch(self, split: str) -> Iterator[pathlib.Path]:
        remote = self._remote()
        if remote is None:
            raise errors.MissingExtraError(
                found="the package `huggingface_hub` is not installed",
                expected=f"it, to read {self.path} from the Hub, or a copy of its "
                f"Parquet files in hub/{self.path} below the data folder",
                do='Run `pip install "elm_jax[hub]"`, or copy the files',
            )
        reasons = []
        for revision in self._revisions():
            listing = _find(remote, self, revision, split)
            if listing.files:
                for file in listing.files:
                    yield self._fetched(remote, revision, file)
                return
            reasons.append(listing.reason)
        raise self._unreadable(split, "; ".join(reasons))

    def _fetched(self, remote: Remote, revision: str, file: str) -> pathlib.Path:
        try:
            return pathlib.Path(remote.fetch(self.path, revision, file))
        except Exception as error:  # noqa: BLE001 - network, cache and Hub errors vary
            raise self._unreadable(file, _first_line(error)) from error

    def _unreadable(self, part: str, why: str) -> errors.DataError:
        return errors.DataError(
            found=f"{part} of {self.name} cannot be read: {why}",
            expected="a Hub dataset with Parquet files of this configuration and split",
            do="Check the connection and the name; or put a copy of its Parquet"
            f" files into hub/{self.path} below the data folder, as"
            " <configuration>/<split>/0000.parquet",
        )


class _Found(NamedTuple):
    """A split's files; or why there are none, and whether the Hub answered."""

    files: Sequence[str]
    reason: str = ""
    answered: bool = True


def _find(remote: Remote, rows: HubRows, revision: str, split: str) -> _Found:
    try:
        listing = _listed(remote, rows.path, revision)
        return _Found(parquet_files.find(listing, rows.subset, split))
    except parquet_files.NotListed as error:
        return _Found((), f"{revision} of {rows.path} has {error}")
    except LookupError as error:
        return _Found((), f"there is no {revision} of {rows.path}: {error}")
    except Exception as error:  # noqa: BLE001 - network, cache and Hub errors vary
        why = f"{revision} of {rows.path} cannot be listed: {_first_line(error)}"
        return _Found((), why, answered=False)


@functools.cache
def _listed(remote: Remote, repository: str, revision: str) -> tuple[str, ...]:
    return tuple(remote.list_files(repository, revision))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
