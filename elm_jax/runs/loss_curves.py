"""The losses of trainings, from their work folders."""

import collections
import os
import pathlib
import re
from collections.abc import Collection, Iterator
from typing import TypedDict

from elm_jax import errors, fields
from elm_jax.disk import json_files
from elm_jax.reporting import report

FILE_NAME = "metrics.jsonl"
_MOST_NAMED = 3
_Points = tuple[tuple[int, float], ...]
_NOT_EXPERTS = ("state", "profile", "tensorboard")  # what a work folder holds


def read(
    work_dir: pathlib.Path, compare_dir: pathlib.Path | None = None
) -> tuple[report.Curve, ...]:
    """Returns the curve of each expert, with that of the same expert elsewhere.

    Where only one of the two was trained with several seeds, or with other seeds, the
    first seed of the other training is compared.

    Args:
      work_dir: Where the work folders of trainings lie; there may be none.
      compare_dir: Where those of another training of the same experts lie.

    Raises:
      DataError: There are no metrics below `compare_dir`, or of other experts only; or
        a line of metrics is none that a training writes.
    """
    curves = _losses(work_dir)
    compared_curves = _losses(compare_dir) if compare_dir else {}
    if compare_dir and not compared_curves:
        raise errors.DataError(
            found=f"no metrics in {compare_dir}",
            expected=f"<expert>/{FILE_NAME}, as elm_train writes them",
            do="Set COMPARE_WORK_DIR to the folder `work` of another MODEL_DIR, or"
            ' to ""',
        )
    first_curves: dict[str, _Points] = {}
    for name, points in compared_curves.items():
        first_curves.setdefault(_without_seed(name), points)
    names = _shown_names(curves)
    compared = tuple(
        report.Curve(
            names[name],
            losses,
            compared_curves.get(name) or first_curves.get(_without_seed(name), ()),
        )
        for name, losses in curves.items()
    )
    if compared_curves and curves and not any(curve.compared for curve in compared):
        raise errors.DataError(
            found=f"metrics of {', '.join(sorted(compared_curves)[:_MOST_NAMED])} in"
            f" {compare_dir}, and of {', '.join(sorted(curves)[:_MOST_NAMED])} in"
            f" {work_dir}",
            expected="trainings of the same experts",
            do='Set COMPARE_WORK_DIR to the folder of such trainings, or to ""',
        )
    return compared


def _without_seed(name: str) -> str:
    """Returns the name of an expert without its training seed.

    >>> _without_seed("seed43/prompts/reviews"), _without_seed("reviews")
    ('prompts/reviews', 'reviews')
    """
    return re.sub(r"(^|/)seed\d+/", r"\1", name)


def _metrics_files(work_dir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the files of metrics of trainings, also of unfinished ones."""
    for folder, names, files in os.walk(work_dir):
        names[:] = [name for name in names if name not in _NOT_EXPERTS]
        if FILE_NAME in files:
            yield pathlib.Path(folder, FILE_NAME)


def _losses(work_dir: pathlib.Path) -> dict[str, _Points]:
    """Returns (step, loss) of every training below a folder, by its own folder."""
    return {
        path.parent.relative_to(work_dir).as_posix(): tuple(_points(path))
        for path in sorted(_metrics_files(work_dir))
    }


def _shown_names(folders: Collection[str]) -> dict[str, str]:
    """Returns each training's name: its folder's, or the path if two share it."""
    last = {folder: folder.rpartition("/")[2] for folder in folders}
    counts = collections.Counter(last.values())
    return {folder: n if counts[n] == 1 else folder for folder, n in last.items()}


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
