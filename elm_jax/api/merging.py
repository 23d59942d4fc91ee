"""Merging experts from Python, as `elm_merge` does."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from elm_jax.runs import loaded, merge


def merge_experts(
    experts: Sequence[loaded.Expert],
    base: loaded.Base,
    *,
    name: str,
    method: Any = "uniform",
    **options: Any,
) -> loaded.Expert:
    """Returns the expert that several are together.

    Args:
      experts: Two or more of one base, of one kind and with like adapters.
      base: Their base.
      name: Of the result.
      method: The name of a merge method, such as `uniform`, the mean of parameters,
        or `task_arithmetic`.
      **options: Those of `merge.Merge`, such as `weights` and `scale`.

    Raises:
      ConfigError: The experts are not alike, or the method or its options are wrong.
      FingerprintError: An expert is of another base.
    """
    with tempfile.TemporaryDirectory(prefix="elm_jax-") as scratch:
        home = pathlib.Path(scratch)
        with contextlib.redirect_stdout(None):
            job = merge.Merge(
                model_dir=scratch,
                # Numbered, as two experts may have one name.
                experts=tuple(
                    f"{_folder(expert, home / 'parts' / f'{number}')}"
                    for number, expert in enumerate(experts)
                ),
                expert_name=name,
                initial_checkpoint_path=f"{_folder(base, home / 'base')}",
                method=method,
                **options,
            )
            job.run()
        merged = loaded.Expert.load(home / "merged" / name)
        return dataclasses.replace(merged, folder=None)


def _folder(expert: loaded.Expert, new: pathlib.Path) -> pathlib.Path:
    """Returns where an expert lies; it is saved in a new place if nowhere."""
    if expert.folder is not None:
        return expert.folder
    expert.save(new)
    return new
