"""How a training hands its finished experts to a bucket while it goes on."""

import pathlib
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping

from elm_jax import errors
from elm_jax.checkpoints import bucket, manifest, recipes
from elm_jax.runs.progress import Progress, show_bytes
from elm_jax.runs.run import Plan


class Publisher:
    """Uploads experts one after another in a thread of its own.

    The thread ends with the process, so that a signal need not wait for an upload:
    the next run publishes what lies finished in its folder and not in the bucket.

    Args:
      place: URL or path of the bucket's folder; "" publishes nothing.
    """

    def __init__(self, place: str) -> None:
        self._bucket = bucket.Bucket(place) if place else None
        self._waiting: queue.Queue[tuple[str, pathlib.Path]] = queue.Queue()
        self._failures: dict[str, Exception] = {}
        self._put: dict[str, pathlib.Path] = {}
        self._num_done = 0

    def check(self, names: Iterable[str]) -> None:
        """Raises CheckpointError unless experts of these names can be published."""
        if self._bucket is not None:
            self._bucket.check(names)

    def check_same(self, folders: Mapping[str, pathlib.Path]) -> None:
        """Raises CheckpointError if the bucket has another expert of the same name.

        Args:
          folders: Of finished experts, by name.
        """
        if self._bucket is not None and folders:
            self._bucket.check_single(folders)
            published = self._bucket.experts(folders)
            for name, folder in folders.items():
                if name in published:
                    _check_same(self._bucket, published[name], folder)

    def published(self, names: Iterable[str]) -> frozenset[str]:
        """Returns the names of experts that are whole in the bucket now.

        Raises:
          CheckpointError: The bucket is not there, or may not be listed.
        """
        return frozenset(
            self._bucket.experts(names) if self._bucket is not None else ()
        )

    def manifests(
        self, names: Iterable[str]
    ) -> Iterator[tuple[str, manifest.Manifest]]:
        """Yields names and manifests of experts that are in the bucket.

        Raises:
          CheckpointError: As `published`, or one cannot be read.
        """
        if self._bucket is not None:
            names = list(names)
            copies = self._bucket.experts(names)
            some = [name for name in names if name in copies]
            infos = self._bucket.manifests(copies[name] for name in some)
            yield from zip(some, infos, strict=True)

    def describe(self, names: Iterable[str]) -> Plan:
        """Returns the lines of a plan about publishing; looks into the bucket."""
        if self._bucket is None:
            return {}
        num_published = len(self.published(names))
        return {"published to": f"{self._bucket.url}, {num_published} there already"}

    def put(self, folders: Mapping[str, pathlib.Path]) -> None:
        """Publishes experts, by name, later; leaves out what is in the bucket."""
        new = {n: f for n, f in folders.items() if n not in self._put}
        if self._bucket is None or not new:
            return
        if not self._put:
            threading.Thread(
                target=self._work, args=(self._bucket,), daemon=True
            ).start()
        self._put.update(new)
        for item in new.items():
            self._waiting.put(item)

    def finish(self) -> dict[str, errors.ElmError]:
        """Waits until all are published; returns those that failed, with the reason."""
        num_before, total = self._num_done, len(self._put)
        progress = Progress("publish", total=total - num_before, unit="experts")
        while self._num_done < total:
            time.sleep(0.05)
            progress(self._num_done - num_before)
        failures: dict[str, errors.ElmError] = {}
        for name, error in self._failures.items():
            if not isinstance(error, errors.ElmError):
                raise error
            failures[name] = error
        return failures

    def _work(self, target: bucket.Bucket) -> None:
        while True:
            name, folder = self._waiting.get()
            start = time.monotonic()
            try:
                published = target.experts([name])
                if name in published:
                    _check_same(target, published[name], folder)
                else:
                    size = show_bytes(target.publish(name, folder))
                    spent = time.monotonic() - start
                    print(f"published: {name}, {size} in {spent:.1f} s")  # noqa: T201
            # Bucket libraries raise what they like, and a thread that ends would leave
            # `finish` waiting. What is no ElmError, it raises again as it is.
            except Exception as error:  # noqa: BLE001
                self._failures[name] = error
                sys.stderr.write(f"{name} is finished, but not published: {error}\n")
            self._num_done += 1


def _check_same(target: bucket.Bucket, copy: bucket.Copy, folder: pathlib.Path) -> None:
    """Raises CheckpointError if the bucket has another expert of this name."""
    (published_info,) = target.manifests([copy])
    local_info = manifest.read_manifest(folder)
    recipes.check_same(
        f"expert {copy.name} in {target.url}",
        {"fingerprint": published_info.fingerprint},
        {"fingerprint": local_info.fingerprint},
        do="Publish to another URL, train under another name, or remove the bucket's"
        " expert",
    )
