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
- A copy counts if all of its objects are those that gave the digest. Beside it lies
  `<digest>.json`, which says which state of each object was read and found right; what
  is in another state now, or has no such record, is read again.

Stores need no conditional writes, which not all have, and nothing is ever removed.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from elm_jax import errors, paths
from elm_jax.checkpoints import experts, objects, stores
from elm_jax.checkpoints import manifest as manifests
from elm_jax.disk import folders, json_files

# Names come from whoever writes to the bucket. Neither `..` nor hidden files fit.
_FILE = re.compile(r"\w[\w.\-]{0,199}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{32}")
_MARK = "_elm_jax"  # written to see whether one may write
_AT_ONCE = 4  # files on their way; one that is written is in memory


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
    hour when files are read or written. Four files are on their way at once, read in
    parts of 64 MiB and written whole; Orbax writes about 2 GiB into one. S3 takes 5 GB
    at most.

    Args:
      place: URL or path; touched by the methods only. With `AWS_ENDPOINT_URL` in the
        environment, as AWS's own programs have it, `s3://` means that server.
    """

    def __init__(self, place: str) -> None:
        self.url = stores.as_url(place)
        self._objects = objects.Objects(self.url)
        self._whole: set[Copy] = set()

    def check(self, names: Iterable[str]) -> None:
        """Raises CheckpointError unless experts of these names can be written here."""
        _check_names(names)
        with self._objects.telling():
            self._objects.try_write(_MARK, b"experts of elm_jax\n")

    def experts(self, names: Iterable[str] | None = None) -> dict[str, Copy]:
        """Returns the first whole copy of each expert that has one.

        What is not whole is told on standard error.

        Args:
          names: Of experts to look for; None for all that there are.

        Raises:
          CheckpointError: The bucket is not there, or may not be read.
        """
        whole_copies = {}
        for name, copies in self.copies(names).items():
            whole = next(filter(self.is_whole, copies), None)
            if whole is not None:
                whole_copies[name] = whole
        return whole_copies

    def pick(self, names: Iterable[str]) -> list[Copy]:
        """Returns a copy of each expert: the only one, or the first whole of several.

        Raises:
          CheckpointError: None of several is whole.
        """
        picked = []
        for name, copies in self.copies(names).items():
            whole = copies if len(copies) == 1 else [*filter(self.is_whole, copies)]
            if not whole:
                raise _damaged(f"{len(copies)} copies of {name} in {self.url}")
            picked.append(whole[0])
        return picked

    def is_whole(self, copy: Copy) -> bool:
        """Returns whether all objects of a copy are as published; prints it if not.

        Raises:
          CheckpointError: They cannot be read.
        """
        if copy in self._whole:
            return True
        root = f"{copy.name}/{copy.digest}/"
        keys, published = self._objects.list(root), self._record(copy)

        def digest(key: str) -> str:
            state, recorded = published.get(key.removeprefix(root), ("", ""))
            is_as_published = state and state == self._objects.state(key)
            return recorded if is_as_published else self._objects.digest(key)

        with self._objects.telling():
            digests = dict(_at_once(digest, keys))
        is_whole = copy.digest == _combine(
            {key.removeprefix(root): text for key, text in digests.items()}
        )
        if is_whole:
            self._whole.add(copy)
        else:
            sys.stderr.write(f"{self.url}{root} is damaged, and does not count\n")
        return is_whole

    def check_single(self, names: Iterable[str]) -> None:
        """Raises CheckpointError if a name stands for several experts here.

        Copies of one expert, by two machines that trained it at once, are fine: their
        recipes and parameters are the same.
        """
        names = list(names)
        copies = self.copies(names)
        for name in names:
            several = copies.get(name, [])
            if len(several) > 1:
                several = [*filter(self.is_whole, several)]
            if len(several) < 2:
                continue
            fingerprints = {info.fingerprint for info in self.manifests(several)}
            if len(fingerprints) > 1:
                raise errors.CheckpointError(
                    found=f"{len(fingerprints)} experts {name!r} in {self.url}:"
                    f" {', '.join(sorted(fingerprints))}",
                    expected="one expert of each name",
                    do="Remove all but one of the folders"
                    f" {', '.join(copy.digest for copy in several)} below"
                    f" {self.url}{name}, and publish others to another URL",
                )

    def copies(self, names: Iterable[str] | None = None) -> dict[str, list[Copy]]:
        """Returns the copies of each expert that have a manifest, sorted by digest.

        Args:
          names: Of experts to look for; None for all that there are.

        Raises:
          CheckpointError: The bucket is not there, or may not be listed.
        """
        files: dict[tuple[str, str], list[str]] = {}
        name_set = None if names is None else {*names}
        prefix = f"{next(iter(name_set))}/" if name_set and len(name_set) == 1 else ""
        for key in self._objects.list(prefix):
            name, digest, path = (*key.split("/", 2), "", "")[:3]
            if name_set is not None and name not in name_set:
                continue
            if paths.is_name(name) and _DIGEST.fullmatch(digest):
                files.setdefault((name, digest), []).append(path)
        by_name: dict[str, list[Copy]] = {}
        for (name, digest), file_paths in sorted(files.items()):
            if manifests.FILE_NAME in file_paths:
                by_name.setdefault(name, []).append(Copy(name, digest, len(file_paths)))
        return by_name

    def manifests(self, copies: Iterable[Copy]) -> Iterator[manifests.Manifest]:
        """Yields what experts say of themselves, in the order given.

        Raises:
          CheckpointError: One cannot be read, or is no manifest.
        """
        for copy in copies:
            key = f"{copy.name}/{copy.digest}/{manifests.FILE_NAME}"
            with self._objects.telling():
                content = self._objects.small(key)
            yield _named(manifests.parse(content, f"{self.url}{key}"), copy.name)

    def publish(self, name: str, folder: pathlib.Path) -> int:
        """Uploads an expert's folder, and returns its bytes.

        Raises:
          CheckpointError: A name is no plain one or not the expert's, the folder is no
            expert's or has links, or something could not be written or reads otherwise
            than written.
        """
        _check_names([name])
        _named(manifests.read_manifest(folder), name)
        with self._objects.telling():
            local_files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
            files = {p.relative_to(folder).as_posix(): p for p in local_files}
            _check_files(files)
            digests = {path: _digest_of_file(file) for path, file in files.items()}
            digest = _combine(digests)
            root, last = f"{name}/{digest}/", files.pop(manifests.FILE_NAME)

            def put(path: str) -> tuple[str, str]:
                self._objects.write(f"{root}{path}", files[path].read_bytes())
                state = self._objects.state(f"{root}{path}")
                if self._objects.digest(f"{root}{path}") != digests[path]:
                    raise ValueError(f"{root}{path} reads otherwise than written")
                return state, digests[path]

            record = json.dumps(dict(_at_once(put, list(files))), indent=1)
            self._objects.write(f"{name}/{digest}.json", record.encode())
            self._objects.write(f"{root}{last.name}", last.read_bytes())
            return sum(path.stat().st_size for path in local_files)

    def fetch(
        self, copy: Copy, folder: pathlib.Path, on_file: Callable[[], None]
    ) -> None:
        """Downloads an expert; the folder is there whole or not at all.

        Args:
          copy: The published copy to download.
          folder: Where it goes; parents are made.
          on_file: Called after each file.

        Raises:
          CheckpointError: There is something, a file's name is no plain one, a file
            is missing or another than was published, or reading or writing fails.
        """
        folders.check_is_new(folder)
        root = f"{copy.name}/{copy.digest}/"
        _check_names([copy.name])
        # Listed again, as the first look may be older than some of the files.
        file_paths = [key.removeprefix(root) for key in self._objects.list(root)]
        _check_files(file_paths)
        with experts.new_folder(folder) as partial:

            def get(path: str) -> str:
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with (partial / path).open("wb") as file:
                    for part in self._objects.parts(f"{root}{path}"):
                        digest.update(part)
                        file.write(part)
                return digest.hexdigest()

            digests = {}
            # Closed, so that no thread still writes where a failure removes.
            with contextlib.closing(_at_once(get, file_paths)) as getting:
                while True:
                    # Only around reading: what `on_file` raises is not of the bucket.
                    with self._objects.telling():
                        path, digest = next(getting, ("", ""))
                    if not digest:
                        break
                    digests[path] = digest
                    on_file()
            if _combine(digests) != copy.digest:
                raise _damaged(f"{self.url}{root}")
            _named(manifests.read_manifest(partial), copy.name)

    def _record(self, copy: Copy) -> dict[str, tuple[str, str]]:
        """Returns state and digest of objects when they were published, by path."""
        try:
            record = json_files.parse(
                self._objects.small(f"{copy.name}/{copy.digest}.json")
            )
            return {path: (state, digest) for path, (state, digest) in record.items()}
        except (ValueError, TypeError, AttributeError):
            return {}  # no record: all is read


def _at_once(
    act: Callable[[str], Any], keys: Sequence[str]
) -> Generator[Any, None, None]:
    """Yields each key with what `act` returns for it, in order; some at a time.

    Once it is closed, no thread acts.
    """
    pool = concurrent.futures.ThreadPoolExecutor(_AT_ONCE)
    try:
        yield from zip(keys, pool.map(act, keys), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _damaged(subject: str) -> errors.CheckpointError:
    return errors.CheckpointError(
        found=f"{subject}: files that are not those published",
        expected="the names and contents that gave the digest",
        do="Remove these objects and publish the expert again",
    )


def _named(info: manifests.Manifest, name: str) -> manifests.Manifest:
    """Returns a manifest that is the expert's of a name; else a CheckpointError."""
    if info.name != name:
        raise errors.CheckpointError(
            found=f"expert {info.name!r} below the name {name!r} of a bucket",
            expected="one name",
            do="Publish the expert under its own",
        )
    return info


def _check_names(names: Iterable[str]) -> None:
    """Raises CheckpointError for what is no name."""
    odd = [name for name in names if not paths.is_name(name)]
    if odd:
        raise errors.CheckpointError(
            found=f"names of experts: {f'{odd}'[:300]}",
            expected=paths.NAME_RULE,
            do="Rename them",
        )


def _check_files(file_paths: Iterable[str]) -> None:
    """Raises CheckpointError for paths that may lead out of an expert's folder."""
    odd = [p for p in file_paths if not all(_FILE.fullmatch(n) for n in p.split("/"))]
    if odd:
        raise errors.CheckpointError(
            found=f"names of an expert's files: {f'{odd}'[:300]}",
            expected="letters, digits, `_`, `-` and `.`, not first a dot or dash",
            do="Rename or remove them",
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of_file(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _combine(digests: Mapping[str, str]) -> str:
    """Returns the digest of a folder, given the digests of its files by path."""
    lines = "".join(f"{path} {digests[path]}\n" for path in sorted(digests))
    return _digest(lines.encode())[:32]
