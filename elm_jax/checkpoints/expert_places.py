"""Where experts lie: a folder, a bucket, or a repository of Hugging Face's hub.

| place | is |
|---|---|
| `runs/x/experts/NAME` | a folder |
| `gs://...`, `s3://...`, ending in `/NAME` | an object of a bucket, see `bucket` |
| `hf://owner/repository` | a repository of models, its branch `main` |
| `hf://owner/repository@revision` | the same at a branch, tag or commit; to read |
"""

import contextlib
import importlib
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from elm_jax import errors, paths
from elm_jax.checkpoints import bucket

_HUB = "hf://"
_REPOSITORY = re.compile(r"([\w.\-]+/[\w.\-]+)(?:@([\w.\-/]+))?", re.ASCII)


@contextlib.contextmanager
def opened(place: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder with the expert of a place; the folder is there in the context.

    Args:
      place: A folder, or an address such as `s3://bucket/experts/dream`.

    Raises:
      CheckpointError: The place cannot be read, or has no such expert.
      ConfigError: It is no place.
      MissingExtraError: It is on the hub, and huggingface_hub is not installed.
    """
    if not _is_url(place):
        yield paths.absolute(place)
        return
    with tempfile.TemporaryDirectory(prefix="elm_jax-") as scratch:
        folder = pathlib.Path(scratch) / "expert"
        if f"{place}".startswith(_HUB):
            _download(_in_hub(f"{place}"), folder)
        else:
            url, name = _in_bucket(f"{place}")
            store = bucket.Bucket(url)
            copies = store.pick([name])
            if not copies:
                raise errors.CheckpointError(
                    found=f"no expert {name!r} in {store.url}",
                    expected="a published one (elm_train with PUBLISH_URL,"
                    " or Expert.save)",
                    do=errors.did_you_mean(name, store.copies()),
                )
            store.fetch(copies[0], folder, lambda: None)
        yield folder


def write(
    place: str | pathlib.Path, name: str, save: Callable[[pathlib.Path], None]
) -> None:
    """Has an expert saved in a place.

    Args:
      place: A folder, or an address such as `s3://bucket/experts/dream`.
      name: Of the expert; in a bucket it is the end of the place.
      save: Writes the expert into a folder that is not there yet.

    Raises:
      CheckpointError: The place cannot be written, or has an expert of this name.
      ConfigError: It is no place.
      MissingExtraError: The place is on the Hub, and huggingface_hub is not installed.
    """
    if not _is_url(place):
        save(paths.absolute(place))
        return
    with tempfile.TemporaryDirectory(prefix="elm_jax-") as scratch:
        folder = pathlib.Path(scratch) / "expert"
        if f"{place}".startswith(_HUB):
            repository = _in_hub(f"{place}")
            save(folder)
            _upload(folder, repository, name)
            return
        url, last = _in_bucket(f"{place}")
        if last != name:
            raise errors.ConfigError(
                found=f"{place} for an expert {name!r}",
                expected=f"a URL that ends in /{name}",
                do="Correct the URL, or rename the expert",
            )
        store = bucket.Bucket(url)
        if store.copies([name]):
            raise errors.ExistsError(
                found=f"{place}, where an expert of this name is already",
                expected="a new place",
                do="Choose another URL or name",
            )
        save(folder)
        store.publish(name, folder)


def _is_url(place: str | pathlib.Path) -> bool:
    return isinstance(place, str) and paths.is_url(place)


def _in_bucket(place: str) -> tuple[str, str]:
    """Returns the bucket's folder and the expert's name."""
    url, _, name = place.rstrip("/").rpartition("/")
    if not paths.is_name(name) or not paths.is_url(url) or url.endswith("/"):
        raise errors.ConfigError(
            found=f"{place!r} as the place of an expert",
            expected="a URL such as gs://bucket/experts/NAME",
            do="Add the name of the expert",
        )
    return url, name


class _Repository(NamedTuple):
    name: str
    revision: str | None


def _in_hub(place: str) -> _Repository:
    match = _REPOSITORY.fullmatch(place.removeprefix(_HUB))
    if match is None:
        raise errors.ConfigError(
            found=f"{place!r} as a repository of the hub",
            expected="hf://owner/repository, or hf://owner/repository@revision",
            do="Correct it",
        )
    return _Repository(match[1], match[2])


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise errors.MissingExtraError(
            found="the package `huggingface_hub` is not installed",
            expected="it, to read and write hf:// places",
            do='Run `pip install "elm_jax[hub]"`',
        ) from error


def _download(repository: _Repository, folder: pathlib.Path) -> None:
    hub = _hub()
    with _telling(repository, "read"):
        # Into a folder of its own: the hub's cache has links, which no expert has.
        hub.snapshot_download(
            repository.name, revision=repository.revision, local_dir=f"{folder}"
        )


def _upload(folder: pathlib.Path, repository: _Repository, name: str) -> None:
    if repository.revision is not None:
        raise errors.ConfigError(
            found=f"{repository.name}@{repository.revision} as a place to write",
            expected="hf://owner/repository",
            do="Leave the revision out",
        )
    hub = _hub()
    with _telling(repository, "written"):
        api = hub.HfApi()
        api.create_repo(repository.name, private=True, exist_ok=True)
        if api.file_exists(repository.name, "manifest.json"):
            raise errors.ExistsError(
                found=f"hf://{repository.name}, where an expert is already",
                expected="a new or empty repository",
                do="Choose another repository",
            )
        api.upload_folder(
            repo_id=repository.name,
            folder_path=f"{folder}",
            commit_message=f"Expert {name}",
        )


@contextlib.contextmanager
def _telling(repository: _Repository, done: str) -> Iterator[None]:
    try:
        yield
    except errors.ElmError:
        raise
    except Exception as error:
        raise errors.CheckpointError(
            found=f"hf://{repository.name} cannot be {done}:"
            f" {errors.first_line(error)}",
            expected="a repository of models that this machine can reach",
            do="Correct the name, the network or the credentials (`hf auth login`)",
        ) from error
