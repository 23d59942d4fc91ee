"""Tasks of P3 as T0's authors cached them: prompts and targets, already rendered.

`bigscience/P3` on the Hub holds one folder per task, in SeqIO's cache format:
`data/<task>/<split>.tfrecord-*` and `info.<split>.json`. A copy of such a folder below
`<data folder>/p3/` serves the task of the same name. Its texts come from an older
PromptSource and random choices were drawn once, so they differ here and there from
what the templates of 0.2.3 give.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from elm_jax import errors
from elm_jax.data import sources


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
        """Yields prompts, targets and choices; imports TensorFlow.

        Raises:
          DataError: The folder is missing or is no cache of SeqIO.
        """
        reason = self.missing(split, data_dir=data_dir)
        if reason:
            raise errors.DataError(
                errors.explain(
                    found=f"{split} of P3's {self.name}: {reason}",
                    expected="a copy of its folder",
                    do="Fetch it, or use another source",
                )
            )
        from elm_jax.data import seqio_tasks

        tf: Any = seqio_tasks.import_tensorflow()
        info = self._folder(data_dir) / f"info.{split}.json"
        try:
            described = json.loads(info.read_text("utf-8"))["features"]
            columns = {n: _column(tf, f) for n, f in described.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.DataError(
                errors.explain(
                    found=f"{info} is not as SeqIO writes it: {error}",
                    expected="a JSON object with `features`",
                    do="Fetch the folder again",
                )
            ) from error
        paths = [str(path) for path in self._files(split, data_dir)]
        records = tf.data.TFRecordDataset(paths)
        for record in records.as_numpy_iterator():
            yield _prompted(tf.io.parse_single_example(record, columns))

    def fingerprint(self, split: str, *, data_dir: str) -> str:
        """Returns a hash of the files' content."""
        contents = [sources.file_hash(path) for path in self._files(split, data_dir)]
        return sources.hash_of("p3", split, self.name, *contents)

    def missing(self, split: str, *, data_dir: str) -> str:
        """Returns "" if the folder is there, else how to get it."""
        if data_dir and self._files(split, data_dir):
            return ""
        return (
            f"no {split}.tfrecord-* in {self._folder(data_dir)}; it is the folder "
            f"data/{self.name} of the Hub dataset bigscience/P3"
        )

    def _folder(self, data_dir: str) -> pathlib.Path:
        return pathlib.Path(data_dir) / "p3" / self.name

    def _files(self, split: str, data_dir: str) -> list[pathlib.Path]:
        return sorted(self._folder(data_dir).glob(f"{split}.tfrecord-*"))


def _column(tf: Any, feature: dict[str, Any]) -> Any:
    # A record knows texts, int64 and float32 only.
    name = feature["dtype"]
    dtype = tf.as_dtype("int64" if name in ("int32", "bool") else name)
    if feature["shape"]:
        return tf.io.VarLenFeature(dtype)
    return tf.io.FixedLenFeature((), dtype)


def _prompted(example: dict[str, Any]) -> sources.Prompted | sources.Skipped:
    """Returns the texts of one example."""
    texts = [
        sources.decoded(example[f"{name}_pretokenized"].numpy()).strip()
        for name in ("inputs", "targets")
    ]
    if not all(texts):
        return sources.Skipped("an empty prompt or target")
    choices: tuple[str, ...] = ()
    if "answer_choices" in example:
        found = example["answer_choices"].values.numpy()
        choices = tuple(sources.decoded(choice).strip() for choice in found)
    return sources.Prompted(texts[0], texts[1], choices)
