"""Experts in a bucket: published whole or not at all, and fetched again.

An expert lies at `<url>/<name>/<digest>/`: its folder's files as they are, below a
digest of all their names and contents. Its manifest is written last, after the others
were read back, and makes it an expert. Nothing more is needed than that a bucket
replaces single objects whole:

- A reader who sees the manifest sees all of the expert, and checks it by the digest.
- Two machines that publish an expert at once have either the same bytes, and write the
  same into the same objects, or others (Orbax draws the names of its files), and write
  below another digest. No order of their writes gives a mixture. Readers who find two
  whole copies take the first by digest; both have the same tensors.
- An upload that was killed has no manifest. The next one from the same folder writes
  over it, one from another folder beside it.

Stores need no conditional writes, which not all have, and nothing is ever removed.
"""

import collections
import contextlib
import functools
import hashlib
import os
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorstore as ts

from elm_jax import errors, folders
from elm_jax.checkpoints import experts, stores
from elm_jax.checkpoints import manifest as manifests

# Names come from whoever writes to the bucket. Neither `..` nor hidden files fit.
_NAME = re.compile(r"\w[\w.\-]{0,199}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{32}")
_MARK = "_elm_jax"  # written to see whether one may write
_AT_ONCE = 4  # files in memory and on their way
_TRIES, _LOOK_SECS = 4, 60.0
_FILE_SECS = 3600.0


class Copy(NamedTuple):
    """A whole expert in a bucket.

    Attributes:
      name: Of the expert.
      digest: Of its files.
      num_files: How many they are.
    """

    name: str
    digest: str
    num_files: int


class Bucket:
    """A place for experts by TensorStore: `gs://`, `s3://`, `file://` or a folder.

    Passing errors of the network are tried again by TensorStore, for a quarter of an
    hour when files are read or written. A file is held in memory, and at most four
    are; Orbax writes about 2 GiB into one. S3 takes 5 GB at most.

    Args:
      place: URL or path; touched by the methods only. With `AWS_ENDPOINT_URL` in the
        environment, as AWS's own programs have it, `s3://` means that server.
    """

    def __init__(self, place: str) -> None:
        self.url = stores.as_url(place)

    def check(self, names: Iterable[str]) -> None:
        """Raises CheckpointError unless experts of these names can be written here."""
        _check_names(names)
        with self._telling():
            store = _open(self.url, tries=_TRIES)
            store.write(_MARK, b"experts of elm_jax\n").result(timeout=_LOOK_SECS)

    def experts(self) -> dict[str, Copy]:
        """Returns the whole experts by name; what has another form is none.

        Raises:
          CheckpointError: The bucket is not there, or may not be listed.
        """
        return {name: copies[0] for name, copies in self._copies().items()}

    def check_single(self, names: Iterable[str]) -> None:
        """Raises CheckpointError if a name stands for several experts here.

        Copies of one expert, by two machines that trained it at once, are fine: their
        recipes and parameters are the same.
        """
        copies = self._copies()
        for name in names:
            several = copies.get(name, [])
            if len(several) < 2:
                continue
            found = {info.fingerprint for info in self.manifests(several)}
            if len(found) > 1:
                raise errors.CheckpointError(
                    errors.explain(
                        found=f"{len(found)} experts {name!r} in {self.url}:"
                        f" {', '.join(sorted(found))}",
                        expected="one expert of each name",
                        do="Remove all but one of the folders"
                        f" {', '.join(copy.digest for copy in several)} below"
                        f" {self.url}{name}, and publish others to another URL",
                    )
                )

    def _copies(self) -> dict[str, list[Copy]]:
        """Returns the whole copies of each expert, sorted by digest."""
        files: dict[tuple[str, str], list[str]] = {}
        for key in self._list(""):
            name, digest, path = (*key.split("/", 2), "", "")[:3]
            if _NAME.fullmatch(name) and _DIGEST.fullmatch(digest):
                files.setdefault((name, digest), []).append(path)
        found: dict[str, list[Copy]] = {}
        for (name, digest), paths in sorted(files.items()):
            if manifests.FILE_NAME in paths:
                found.setdefault(name, []).append(Copy(name, digest, len(paths)))
        return found

    def manifests(self, copies: Iterable[Copy]) -> Iterator[manifests.Manifest]:
        """Yields what experts say of themselves, in the order given.

        Raises:
          CheckpointError: One cannot be read, or is no manifest.
        """
        paths = [f"{c.name}/{c.digest}/{manifests.FILE_NAME}" for c in copies]
        for path, content in self._read("", paths):
            yield manifests.parse(content, f"{self.url}{path}")

    def publish(self, name: str, folder: pathlib.Path) -> int:
        """Uploads an expert's folder, and returns its bytes.

        Raises:
          CheckpointError: A name is no plain one, the folder is no expert's, or
            something could not be written or reads otherwise than written.
        """
        with self._telling():
            paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
            files = {p.relative_to(folder).as_posix(): p for p in paths}
            _check_names((name, *files, manifests.read_manifest(folder).name))
            digests = {path: _digest_of_file(file) for path, file in files.items()}
            root = f"{name}/{_combine(digests)}/"
            store = _open(f"{self.url}{root}")
            last = files.pop(manifests.FILE_NAME)
            writes = _overlapped(
                files, lambda path: store.write(path, files[path].read_bytes())
            )
            collections.deque(writes, maxlen=0)
            for path, content in self._read(root, files):
                if _digest(content) != digests[path]:
                    raise ValueError(f"{root}{path} reads otherwise than written")
            store.write(last.name, last.read_bytes()).result(timeout=_FILE_SECS)
            return sum(path.stat().st_size for path in paths)

    def fetch(
        self, copy: Copy, folder: pathlib.Path, on_file: Callable[[], None]
    ) -> None:
        """Downloads an expert; the folder is there whole or not at all.

        Args:
          copy: Which.
          folder: Where it goes; parents are made.
          on_file: Called after each file.

        Raises:
          CheckpointError: There is something, a file's name is no plain one, a file
            is missing or another than was published, or reading or writing fails.
        """
        folders.check_is_new(folder)
        root = f"{copy.name}/{copy.digest}/"
        # Listed again, as the first look may be older than some of the files.
        paths = [key.removeprefix(root) for key in self._list(root)]
        _check_names((copy.name, *paths))
        with experts.new_folder(folder) as partial:
            digests = {}
            for path, content in self._read(root, paths):
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                (partial / path).write_bytes(content)
                digests[path] = _digest(content)
                on_file()
            if _combine(digests) != copy.digest:
                raise errors.CheckpointError(
                    errors.explain(
                        found=f"files of {self.url}{root} that are not those published",
                        expected="the names and contents that gave the digest",
                        do="Remove these objects and publish the expert again",
                    )
                )
            _check_names([manifests.read_manifest(partial).name])

    def _list(self, prefix: str) -> list[str]:
        """Returns the keys below a prefix, sorted, but not those that mark folders."""
        with self._telling():
            store = _open(f"{self.url}{prefix}", tries=_TRIES)
            keys = store.list().result(timeout=_LOOK_SECS)
        names = sorted(key.decode(errors="replace") for key in keys)
        return [f"{prefix}{name}" for name in names if not name.endswith("/")]

    def _read(self, root: str, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        store = _open(f"{self.url}{root}")
        answers = _overlapped(paths, store.read)
        while True:
            with self._telling():  # only around reading: callers have errors of theirs
                path, answer = next(answers, ("", None))
                if answer is None:
                    return
                if answer.state != "value":
                    raise ValueError(f"{root}{path} is missing")
            yield path, answer.value

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except experts.IO_ERRORS as error:
            raise errors.CheckpointError(
                errors.explain(
                    # TensorStore's own reason comes before its details in brackets.
                    found=f"{self.url}: {errors.first_line(error).split(' [')[0]}",
                    expected="a bucket that is there, which this machine can reach and"
                    " may list, read and write",
                    do="Correct the URL, the network or the credentials: for gs:// as"
                    " `gcloud auth application-default login` makes them, for s3:// as"
                    " `aws configure` does",
                )
            ) from error


@functools.cache
def _context() -> ts.Context:
    """Returns what all stores share: connections, credentials, what lies in memory."""
    return ts.Context()


def _open(url: str, *, tries: int = 0) -> ts.KvStore:
    """Returns the store below a URL; `tries` limits TensorStore's own number."""
    context = _context()
    if tries:
        kinds = ("gcs_request_retries", "s3_request_retries")
        context = ts.Context({k: {"max_retries": tries} for k in kinds}, context)
    spec: Any = url
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and url.startswith("s3://"):
        parts = urllib.parse.urlsplit(url)
        path = urllib.parse.unquote(parts.path).removeprefix("/")
        spec = {"driver": "s3", "bucket": parts.netloc, "path": path}
        spec["endpoint"] = endpoint
    return ts.KvStore.open(spec, context=context).result()


def _overlapped(
    paths: Iterable[str], start: Callable[[str], Any]
) -> Iterator[tuple[str, Any]]:
    """Yields each path with the result of the future that `start` gives, in order."""
    going: collections.deque[tuple[str, Any]] = collections.deque()
    for path in paths:
        going.append((path, start(path)))
        if len(going) == _AT_ONCE:
            first, future = going.popleft()
            yield first, future.result(timeout=_FILE_SECS)
    for path, future in going:
        yield path, future.result(timeout=_FILE_SECS)


def _check_names(paths: Iterable[str]) -> None:
    odd = [p for p in paths if not all(_NAME.fullmatch(n) for n in p.split("/"))]
    if odd:
        raise errors.CheckpointError(
            errors.explain(
                found=f"names of an expert or its files: {f'{odd}'[:300]}",
                expected="letters, digits, `_`, `-` and `.`, not first a dot or dash",
                do="Rename or remove them",
            )
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of_file(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _combine(digests: Mapping[str, str]) -> str:
    """Returns the digest of a folder, given those of its files by path."""
    lines = "".join(f"{path} {digests[path]}\n" for path in sorted(digests))
    return _digest(lines.encode())[:32]
