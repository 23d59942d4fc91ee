"""Builds token caches, in this process or on all cores, and can continue a build.

Parts of a cache that is being built are in `.<split>-<key>.parts` beside it. They are
named by the cache's key. So a build that continues, or a second one at the same time,
finds only parts that it would have made itself, byte for byte.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import process
from typing import Any

from elm_jax import errors
from elm_jax.data import (
    cache_parts,
    rendering,
    tasks,
    token_counts,
    token_store,
    tokenizing,
)
from elm_jax.data import vocabulary as vocabularies
from elm_jax.disk import folders, seals

MANIFEST_FILE = "manifest.json"
# How many parts may wait for each worker; this limits how far rows are read ahead.
_AHEAD = 2

Progress = Callable[[int], None]
"""Called with the number of rows done so far."""


@dataclasses.dataclass(frozen=True)
class CacheBuild:
    """A cache that is to be built.

    Attributes:
      task: The task.
      split: One of its splits.
      folder: The cache's folder.
      key: Everything that shapes the cache, for its manifest.
      vocabulary: Of all tokens.
      features: Lengths.
      data_options: Folders of data and templates.
    """

    task: tasks.AnyTask
    split: str
    folder: pathlib.Path
    key: dict[str, Any]
    vocabulary: vocabularies.SentencePiece
    features: tasks.Features
    data_options: tasks.DataOptions

    @property
    def name(self) -> str:
        """The task and split, in words."""
        return f"{self.split} of task {self.task.name!r}"

    @property
    def parts_dir(self) -> pathlib.Path:
        """The folder of its parts, until the cache is complete."""
        return self.folder.parent / f".{self.folder.name}.parts"

    @functools.cached_property
    def template(self) -> Any:
        """The template, or None without one; see `rendering.load_template`."""
        if isinstance(self.task, tasks.SeqioTask):
            return None
        chars = self.features.max_value_chars
        return rendering.load_template(self.task, self.split, self.data_options, chars)

    def parts(self) -> Iterator[tuple[pathlib.Path, cache_parts.PartJob | None, Any]]:
        """Yields for each part its folder, job (None if it is done) and rows."""
        if isinstance(self.task, tasks.SeqioTask):
            yield self._shard_of_seqio(), None, ()
            return
        if self.template is not None:
            rendering.check_template(self.template, self.data_options.limits)
        rows = rendering.served(self.task, self.split, self.data_options).rows()
        for start, some in cache_parts.deal(rows):
            folder = self.parts_dir / f"{start:010d}"
            job = cache_parts.PartJob(
                folder=folder,
                start=start,
                split=self.split,
                template=cache_parts.sendable(self.template),
                field=getattr(self.task, "field", ""),
                vocabulary=dataclasses.replace(self.vocabulary),
                features=self.features,
                limits=self.data_options.limits,
            )
            yield folder, None if folder.is_dir() else job, some

    def finish(self, parts: Sequence[pathlib.Path]) -> None:
        """Joins the parts, unless another process has; then removes them.

        Raises:
          DataError: Too many rows do not fit, there are no examples, targets are too
            long, or the folder cannot be written.
        """
        try:
            if not self.folder.is_dir():
                self._join(parts)
        except FileNotFoundError as error:
            if not self.folder.is_dir():  # otherwise another process was faster
                raise errors.DataError(
                    found=f"parts of {self.name} that another process has removed,"
                    " as it could not build the cache",
                    expected=f"all of them in {self.parts_dir}",
                    do="Start again; what was wrong there is told then, if it is",
                ) from error
        finally:
            shutil.rmtree(self.parts_dir, ignore_errors=True)

    def is_built(self) -> bool:
        """Returns whether the cache is on disk; if so, removes parts that are left.

        They may be this process's own, if another one was faster, or a killed one's.
        """
        if not self.folder.is_dir():
            return False
        shutil.rmtree(self.parts_dir, ignore_errors=True)
        return True

    def drop_empty(self) -> None:
        """Removes the folders of this cache that hold nothing."""
        for folder in (self.parts_dir, self.folder.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _join(self, parts: Sequence[pathlib.Path]) -> None:
        parts_read = [_read_part(part, self.name) for part in parts]
        num_rows = sum(part.num_rows for part in parts_read)
        num_examples = sum(len(part.columns.labels) for part in parts_read)
        dropped = sum((part.dropped for part in parts_read), collections.Counter[str]())
        first_bad: dict[str, str] = {}
        for reason, problem in (
            item for part_read in parts_read for item in part_read.first_bad.items()
        ):
            first_bad.setdefault(reason, problem)
        if not isinstance(self.task, tasks.SeqioTask):
            rendering.check_rows(
                self.task,
                self.split,
                num_rows=num_rows,
                num_examples=num_examples,
                dropped=dropped,
                first_bad=first_bad,
            )
        lengths = {
            name: cache_parts.concatenated([part.lengths[name] for part in parts_read])
            for name in token_counts.TOKENS
        }
        unknown = token_counts.summed_unknown(
            [
                token_counts.count_unknown(part.columns, self.vocabulary.unknown_id)
                for part in parts_read
            ]
        )
        indistinct = sum(
            (part_read.indistinct for part_read in parts_read),
            collections.Counter[str](),
        )
        is_text = isinstance(self.task, tasks.TextTask)
        limits = None if is_text else self.features
        arrays = cache_parts.joined(parts_read)
        manifest = {
            "key": self.key,
            "fingerprint": cache_parts.fingerprint(arrays),
            "answer_choices": getattr(self.template, "answer_choices", None),
            "num_rows": num_rows,
            "num_examples": num_examples,
            "dropped": dict(sorted(dropped.items())),
            "first_bad": first_bad,
            "unknown": unknown,
            "indistinct": dict(sorted(indistinct.items())),
            **token_counts.count_lengths(self.name, lengths, limits),
        }
        with (
            contextlib.suppress(errors.ExistsError),  # of another process, the same
            folders.new_folder(self.folder) as temporary,
        ):
            path = temporary / token_store.ARRAYS_FILE
            manifest["arrays"] = token_store.write_arrays(path, arrays)
            sealed = seals.seal(manifest)
            text = json.dumps(sealed, indent=1, ensure_ascii=False)
            (temporary / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")

    def _shard_of_seqio(self) -> pathlib.Path:
        """Returns the one part of a task that SeqIO alone can read."""
        assert isinstance(self.task, tasks.SeqioTask)  # noqa: S101 - for type checkers
        folder = self.parts_dir / "seqio"
        if not folder.is_dir():
            rendered, tokens = tokenizing.user_examples(
                self.task, self.split, self.vocabulary
            )
            tokenized = tokenizing.cut_to(
                rendered, tokens, self.vocabulary, self.features
            )
            cache_parts.write(folder, rendered, tokenized)
        return folder


def _read_part(part: pathlib.Path, name: str) -> cache_parts.Part:
    try:
        return cache_parts.read(part)
    except (ValueError, KeyError, TypeError) as error:
        raise errors.DataError(
            found=f"a part of {name} is damaged: {part}: {error}",
            expected="the bytes that were written",
            do="Start again: the parts of this cache were removed, and are made anew",
        ) from error


def build_here(build: CacheBuild, progress: Progress | None = None) -> None:
    """Builds a cache in this process.

    Raises:
      ElmError: The task's data or template is missing or does not fit.
    """
    parts, done = [], 0
    try:
        for folder, job, rows in build.parts():
            if job is not None:
                cache_parts.build(job, rows)
            parts.append(folder)
            done += len(rows)
            if progress:
                progress(done)
        _finish(build, parts)
    except errors.DataError:
        if not build.is_built():
            raise
    finally:
        build.drop_empty()


def build_all(
    builds: Sequence[CacheBuild],
    *,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> dict[str, errors.ElmError]:
    """Builds caches on several cores; the files are those of `build_here`.

    This process reads the rows; the workers render and tokenise them. If one
    cache fails, the others are built all the same.

    Args:
      builds: What to build.
      num_workers: Processes; 0 for one per core.
      progress: Called with the number of rows done, of all caches together.

    Returns:
      The errors of the caches that failed, by their names.
    """
    num_workers = num_workers or os.cpu_count() or 1
    # Fresh interpreters: a fork would inherit locks that JAX's threads hold.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        num_workers, context, initializer=_end_with_parent
    ) as pool:
        parts = _PartsAtWork(pool, num_workers * _AHEAD, progress)
        for build in builds:
            parts.begin(build)
        parts.wait(0)
    return parts.failed


class _PartsAtWork:
    """Gives parts to workers, and finishes each cache after its last part."""

    def __init__(
        self,
        pool: concurrent.futures.Executor,
        most_waiting: int,
        progress: Progress | None,
    ) -> None:
        self.failed: dict[str, errors.ElmError] = {}
        self._pool, self._most_waiting, self._progress = pool, most_waiting, progress
        self._waiting: dict[concurrent.futures.Future[int], CacheBuild] = {}
        self._left: collections.Counter[str] = collections.Counter()
        self._parts: dict[str, list[pathlib.Path]] = {}
        self._done = 0

    def begin(self, build: CacheBuild) -> None:
        """Gives out all parts of a cache that are not on disk yet."""
        parts = []
        # One more than its parts, until all are given out.
        self._left[build.name] += 1
        try:
            for folder, job, rows in build.parts():
                parts.append(folder)
                if job is None:
                    self._count(len(rows))
                    continue
                self._left[build.name] += 1
                self._waiting[self._pool.submit(cache_parts.build, job, rows)] = build
                self.wait(self._most_waiting)
                if build.name in self.failed:
                    break
        except errors.ElmError as error:
            self._fail(build, error)
        self._parts[build.name] = parts
        self._one_less(build)

    def wait(self, most: int) -> None:
        """Waits until at most so many parts are unfinished."""
        while len(self._waiting) > most:
            done, _ = concurrent.futures.wait(
                self._waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                build = self._waiting.pop(future)
                try:
                    self._count(future.result())
                except errors.ElmError as error:
                    self._fail(build, error)
                except process.BrokenProcessPool as error:
                    raise errors.DataError(
                        found=f"a worker process died while building {build.name}",
                        expected="memory for every worker, and a main module that "
                        "other processes can import",
                        do="Start again with fewer workers (num_workers); finished "
                        "parts are kept",
                    ) from error
                self._one_less(build)

    def _one_less(self, build: CacheBuild) -> None:
        self._left[build.name] -= 1
        if self._left[build.name]:
            return
        try:
            if build.name not in self.failed:
                _finish(build, self._parts[build.name])
        except errors.ElmError as error:
            self._fail(build, error)
        finally:
            build.drop_empty()

    def _fail(self, build: CacheBuild, error: errors.ElmError) -> None:
        if build.is_built():
            return
        error.add_note(f"While caching {build.name}.")
        self.failed.setdefault(build.name, error)

    def _count(self, num_rows: int) -> None:
        self._done += num_rows
        if self._progress:
            self._progress(self._done)


def _end_with_parent() -> None:
    """Ends this worker when the process that started it ends, even if it was killed.

    Otherwise the worker would wait for work for ever.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _finish(build: CacheBuild, folders: Sequence[pathlib.Path]) -> None:
    """Finishes a cache, even if its source has no rows."""
    if not folders:
        empty = rendering.RenderedSplit()
        tokenized = tokenizing.tokenize(empty, build.vocabulary, build.features)
        folder = build.parts_dir / "empty"
        cache_parts.write(folder, empty, tokenized)
        folders = [folder]
    build.finish(folders)
