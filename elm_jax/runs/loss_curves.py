"""The losses of trainings, from their work folders."""

import collections
import json
import pathlib

from elm_jax import errors
from elm_jax.reporting import report

FILE_NAME = "metrics.jsonl"


def read(
    work_dir: pathlib.Path, compare_dir: pathlib.Path | None = None
) -> tuple[report.Curve, ...]:
    """Returns the curve of each expert, with that of the same expert elsewhere.

    Args:
      work_dir: Where the work folders of trainings lie; there may be none.
      compare_dir: Where those of another training of the same experts lie.

    Raises:
      DataError: There are no metrics below `compare_dir`.
    """
    curves = _losses(work_dir)
    others = _losses(compare_dir) if compare_dir else {}
    if compare_dir and not others:
        raise errors.DataError(
            errors.explain(
                found=f"no metrics in {compare_dir}",
                expected=f"<expert>/{FILE_NAME}, as elm_train writes them",
                do="Set COMPARE_WORK_DIR to the folder `work` of another MODEL_DIR, or"
                ' to ""',
            )
        )
    return tuple(
        report.Curve(name, own, others.get(name, ())) for name, own in curves.items()
    )


def _losses(work_dir: pathlib.Path) -> dict[str, tuple[tuple[int, float], ...]]:
    """Returns (step, loss) of every training below a folder, by expert.

    Experts that share a name are told by their folders.
    """
    paths = sorted(work_dir.rglob(FILE_NAME))
    counts = collections.Counter(path.parent.name for path in paths)
    found = {}
    for path in paths:
        name = path.parent.name
        if counts[name] > 1:
            name = path.parent.relative_to(work_dir).as_posix()
        lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        found[name] = tuple((row["step"], row["loss"]) for row in lines)
    return found
