"""elm_library: gets experts that trainings have published to a bucket."""

import dataclasses
from collections.abc import Callable

from elm_jax import errors, paths
from elm_jax.checkpoints import bucket, manifest, recipes
from elm_jax.library import lock
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchExperts(Run):
    """Downloads finished experts of a bucket; those that are in the folder stay.

    Attributes:
      url: Where trainings published them (`options.Results.publish_url`).
      experts: Names, or shell patterns of names.
      experts_dir: Where they go.
    """

    url: paths.Place
    experts: str | tuple[str, ...] = "*"
    experts_dir: paths.Path = "{MODEL_DIR}/experts"

    def plan(self) -> Plan:
        """Returns what would be downloaded; looks into the bucket.

        Raises:
          CheckpointError: As `run` before it downloads anything.
        """
        source = self._bucket()
        chosen = self._choose(source)
        missing = self._missing(source, chosen)
        return {
            "bucket": self.place(self.url),
            "experts": f"{len(chosen)}: {', '.join(copy.name for copy in chosen)}",
            "there already": len(chosen) - len(missing),
            "files": f"{sum(copy.num_files for copy in missing)} below"
            f" {self.path(self.experts_dir)}",
        }

    def run(self) -> None:
        """Downloads what is not there yet, and compares what is.

        Raises:
          CheckpointError: A folder holds another expert than the bucket has of its
            name, the bucket has several, or it cannot be read.
        """
        source = self._bucket()
        chosen = self._choose(source)
        folder = self.path(self.experts_dir)
        with lock.hold(folder):
            missing = self._missing(source, chosen)
            done, total = 0, sum(copy.num_files for copy in missing)
            progress = Progress("fetch", total=total, unit="files")

            def count() -> None:
                nonlocal done
                done += 1
                progress(done)

            for copy in missing:
                self._fetch(source, copy, count)
        print(  # noqa: T201
            f"experts: {len(missing)} fetched, {len(chosen) - len(missing)} there"
            f" already, in {folder}"
        )

    def _bucket(self) -> bucket.Bucket:
        """Returns the bucket; one for all questions, as it knows what it looked at."""
        return bucket.Bucket(self.place(self.url))

    def _fetch(
        self, source: bucket.Bucket, copy: bucket.Copy, on_file: Callable[[], None]
    ) -> None:
        """Downloads an expert, unless a training saves it here meanwhile."""
        target = self.path(self.experts_dir) / copy.name
        recipes.make_once(
            lambda: source.fetch(copy, target, on_file),
            lambda: not self._missing(source, [copy]),
        )

    def _choose(self, source: bucket.Bucket) -> list[bucket.Copy]:
        """Returns the experts in the bucket whose names fit, sorted.

        Raises:
          LibraryError: A pattern fits none.
        """
        published = source.copies()
        names: set[str] = set()
        for pattern in (
            (self.experts,) if isinstance(self.experts, str) else self.experts
        ):
            fitting = paths.fitting(pattern, published)
            if not fitting:
                raise errors.LibraryError(
                    found=f"no expert {pattern!r} among {len(published)} in"
                    f" {self.place(self.url)}",
                    expected="published experts (--gin.PUBLISH_URL of elm_train)",
                    do="Correct the pattern or the URL."
                    f" {errors.did_you_mean(pattern, published)}",
                )
            names.update(fitting)
        return source.pick(sorted(names))

    def _missing(
        self, source: bucket.Bucket, chosen: list[bucket.Copy]
    ) -> list[bucket.Copy]:
        """Returns what is not there; raises CheckpointError if another expert is."""
        folder = self.path(self.experts_dir)
        source.check_single(copy.name for copy in chosen)
        present = [
            c for c in chosen if (folder / c.name / manifest.FILE_NAME).is_file()
        ]
        for copy, info in zip(present, source.manifests(present), strict=True):
            local_info = manifest.read_manifest(folder / copy.name)
            recipes.check_same(
                f"expert {folder / copy.name}",
                {"name": local_info.name, "fingerprint": local_info.fingerprint},
                {"name": info.name, "fingerprint": info.fingerprint},
                do="Choose another experts_dir, or remove the folder to fetch the"
                " bucket's expert",
            )
        return [copy for copy in chosen if copy not in present]
