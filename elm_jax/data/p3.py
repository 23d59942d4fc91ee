"""Tasks of P3 as T0's authors cached them: prompts and targets, already rendered.

`bigscience/P3` on the Hub holds one folder per task. Since March 2024 it is of Parquet
files, `<task>/<split>-00000-of-00001.parquet`; before, in SeqIO's cache format,
`data/<task>/<split>.tfrecord-*` and `info.<split>.json`. A copy of either folder, or of
the branch of converted files, below `<data folder>/p3/` serves the task of the same
name; TFRecords are taken if there are both. Its texts come from an older PromptSource
and random choices were drawn once, so they differ here and there from what the
templates of 0.2.3 give.
"""

import dataclasses
import glob
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from elm_jax import errors
from elm_jax.data import parquet_files, sources, tensorflow_imports
from elm_jax.disk import json_files

# The last revision of TFRecords.
TFRECORD_REVISION = "248047a08e9d5d0460fe7281323595aa078afe75"


_TEXTS = ("inputs_pretokenized", "targets_pretokenized")
_CHOICES = "answer_choices"
_FRAME_BYTES = 16  # of a record: its length, 8 bytes, and two checksums


@dataclasses.dataclass(frozen=True)
class P3Rows:
    """One cached task of P3.

    Attributes:
      name: The task's name, which is T0's.
    """

    name: str
    is_prompted = True

    def rows(
        self, split: str, *, data_dir: str
    ) -> Iterator[sources.Prompted | sources.Skipped]:
        """Yields prompts, targets and choices; of TFRecords by TensorFlow.

        Raises:
          DataError: The folder is missing, incomplete or of another form.
        """
        reason = self.missing(split, data_dir=data_dir)
        if reason:
            raise errors.DataError(
                found=f"{split} of P3's {self.name}: {reason}",
                expected="a copy of its folder",
                do="Fetch it, or use another source",
            )
        if self._records(split, data_dir):
            yield from self._cached(split, data_dir)
            return
        for row in parquet_files.rows(self._files(split, data_dir)):
            lacking = [name for name in _TEXTS if name not in row]
            if lacking:
                raise errors.DataError(
                    found=f"{self._folder(data_dir)} without {', '.join(lacking)}",
                    expected=f"P3's columns {', '.join(_TEXTS)}",
                    do="Fetch the folder again",
                )
            # As in TFRecords, tasks without choices lack the column.
            yield _prompted([row[name] for name in _TEXTS], row.get(_CHOICES) or ())

    def _cached(
        self, split: str, data_dir: str
    ) -> Iterator[sources.Prompted | sources.Skipped]:
        tf: Any = tensorflow_imports.import_tensorflow()
        folder = self._folder(data_dir)
        _check_info(folder / f"info.{split}.json")
        # Whatever the description says of choices: none are read where there are none.
        columns = {name: tf.io.FixedLenFeature((), tf.string) for name in _TEXTS}
        columns[_CHOICES] = tf.io.VarLenFeature(tf.string)
        paths = [str(path) for path in self._records(split, data_dir)]
        num_bytes = 0
        try:
            for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
                num_bytes += _FRAME_BYTES + len(record)
                example = tf.io.parse_single_example(record, columns)
                choices = example[_CHOICES].values.numpy()
                yield _prompted([example[name].numpy() for name in _TEXTS], choices)
        except tf.errors.OpError as error:
            raise errors.DataError(
                found=f"{split} in {folder} cannot be read: {error.message}",
                expected="records as SeqIO writes them",
                do="Fetch the folder again",
            ) from error
        # TensorFlow takes a few bytes after the last record for the end.
        file_bytes = sum(pathlib.Path(path).stat().st_size for path in paths)
        if num_bytes != file_bytes:
            raise errors.DataError(
                found=f"{split} in {folder}: {file_bytes:,} bytes, and records of"
                f" {num_bytes:,}",
                expected="files that end after a record",
                do="Fetch the folder again",
            )

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns a hash of the files' content."""
        contents = [sources.file_hash(path) for path in self._files(split, data_dir)]
        return sources.hash_of("p3", split, self.name, *contents)

    def missing(self, split: str, *, data_dir: str) -> str:
        """Returns "" if the folder is there, else how to get it."""
        try:
            if data_dir and self._files(split, data_dir):
                return ""
            problem = ""
        except parquet_files.NotListed as error:
            problem = f" ({error})"
        return (
            f"no {split} in {self._folder(data_dir)}{problem}; it is the folder "
            f"{self.name} of the Hub dataset bigscience/P3 (Parquet), or data/"
            f"{self.name} of its revision {TFRECORD_REVISION} (TFRecords)"
        )

    def _folder(self, data_dir: str) -> pathlib.Path:
        return pathlib.Path(data_dir) / "p3" / self.name

    def _records(self, split: str, data_dir: str) -> list[pathlib.Path]:
        name = glob.escape(split)
        files = sorted(self._folder(data_dir).glob(f"{name}.tfrecord-*"))
        counts = {path.name.rpartition("-of-")[2] for path in files}
        if counts - {f"{len(files):05d}"}:
            raise parquet_files.NotListed(
                f"{len(files)} of {', '.join(sorted(counts))} files of {split}"
            )
        return files

    def _files(self, split: str, data_dir: str) -> list[pathlib.Path]:
        if records := self._records(split, data_dir):
            return records
        folder = self._folder(data_dir)
        # Each task is a configuration, in both layouts of Parquet files.
        paths = [f"{self.name}/{path}" for path in parquet_files.below(folder)]
        paths_of_split = parquet_files.find(paths, self.name, split) if paths else []
        return [folder.parent / file for file in paths_of_split]


def _check_info(path: pathlib.Path) -> None:
    """Raises DataError unless a file describes the texts as SeqIO does."""
    try:
        described = json_files.read_object(path)["features"]
        odd = [
            name
            for name in _TEXTS
            if described[name]["dtype"] != "string" or described[name]["shape"]
        ]
        if odd:
            raise ValueError(f"{', '.join(odd)} is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.DataError(
            found=f"{path} is not as SeqIO writes it: {error}",
            expected="a JSON object with `features`",
            do="Fetch the folder again",
        ) from error


def _prompted(
    texts: Iterable[Any], choices: Iterable[Any]
) -> sources.Prompted | sources.Skipped:
    """Returns the prompt and target of one example, which may still be bytes."""
    inputs, targets = map(_text, texts)
    if not (inputs and targets):
        return sources.Skipped("an empty prompt or target")
    return sources.Prompted(inputs, targets, tuple(map(_text, choices)))


def _text(value: Any) -> str:
    return (sources.decoded(value) or "").strip()
