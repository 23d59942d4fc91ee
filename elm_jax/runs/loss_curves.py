"""The losses of trainings, from their work folders."""

import collections
import os
import pathlib
from collections.abc import Iterator
from typing import TypedDict

from elm_jax import errors, fields
from elm_jax.disk import json_files
from elm_jax.reporting import report

FILE_NAME = "metrics.jsonl"
_NOT_EXPERTS = ("state", "profile", "tensorboard")  # what a work folder holds


def read(
    work_dir: pathlib.Path, compare_dir: pathlib.Path | None = None
) -> tuple[report.Curve, ...]:
    """Returns the curve of each expert, with that of the same expert elsewhere.

    Args:
      work_dir: Where the work folders of trainings lie; there may be none.
      compare_dir: Where those of another training of the same experts lie.

    Raises:
      DataError: There are no metrics below `compare_dir`, or a line of metrics is
        none that a training writes.
    """
    curves = _losses(work_dir)
    others = _losses(compare_dir) if compare_dir else {}
    if compare_dir and not others:
        raise errors.DataError(
            found=f"no metrics in {compare_dir}",
            expected=f"<expert>/{FILE_NAME}, as elm_train writes them",
            do="Set COMPARE_WORK_DIR to the folder `work` of another MODEL_DIR, or"
            ' to ""',
        )
    return tuple(
        report.Curve(name, own, others.get(name, ())) for name, own in curves.items()
    )


def _metrics_files(work_dir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the metrics of trainings, also of those that go on meanwhile."""
    for folder, names, files in os.walk(work_dir):
        names[:] = [name for name in names if name not in _NOT_EXPERTS]
        if FILE_NAME in files:
            yield pathlib.Path(folder, FILE_NAME)


def _losses(work_dir: pathlib.Path) -> dict[str, tuple[tuple[int, float], ...]]:
    """Returns (step, loss) of every training below a folder, by expert.

    Experts that share a name are told by their folders.
    """
    paths = sorted(_metrics_files(work_dir))
    counts = collections.Counter(path.parent.name for path in paths)
    found = {}
    for path in paths:
        name = path.parent.name
        if counts[name] > 1:
            name = path.parent.relative_to(work_dir).as_posix()
        found[name] = tuple(_points(path))
    return found


class _Line(TypedDict):
    step: fields.CountOrNone
    loss: fields.Finite


def _points(path: pathlib.Path) -> Iterator[tuple[int, float]]:
    def problem(row: object) -> str:
        return "; ".join(json_files.misfits(row, _Line, known_only=True))

    try:
        for _, row in json_files.lines(path, problem):
            yield row["step"], row["loss"]
    except (OSError, ValueError) as error:
        raise errors.DataError(
            found=f"{path}: {error}",
            expected="lines of step, loss and other numbers, as elm_train writes them",
            do="Remove the line, or the file to have no curve of this training",
        ) from error
