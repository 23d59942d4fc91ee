"""Arrays in a folder with the recipe they were made by, compared when they are read."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from elm_jax import errors
from elm_jax.disk import files, folders, json_files, seals

Recipe = Mapping[str, Any]

_ARRAYS, _RECORD = "arrays.npz", "record.json"


def folder_of(parent: pathlib.Path, name: str, recipe: Recipe) -> pathlib.Path:
    """Returns where arrays of a recipe lie, or will lie.

    Args:
      parent: Of all such folders.
      name: What people call them.
      recipe: JSON values that decide the arrays.
    """
    text = json.dumps(dict(recipe), sort_keys=True)
    return parent / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def write(
    folder: pathlib.Path, arrays: Mapping[str, np.ndarray], recipe: Recipe
) -> None:
    """Writes arrays; those that are there already stay.

    Args:
      folder: Of `folder_of`.
      arrays: By name.
      recipe: As of `folder_of`.

    Raises:
      DataError: The folder cannot be written.
    """
    try:
        with folders.new_folder(folder) as made:
            with (made / _ARRAYS).open("wb") as file:
                np.savez(file, **dict(arrays))  # type: ignore[arg-type]
            content = {"arrays": _digest(made / _ARRAYS), "recipe": dict(recipe)}
            text = json.dumps(seals.seal(content), indent=2)
            files.write_text(made / _RECORD, text)
    except errors.ExistsError:
        return


def read(folder: pathlib.Path, recipe: Recipe) -> dict[str, np.ndarray] | None:
    """Returns the arrays that `write` was given; None if there is no such folder.

    Raises:
      DataError: They are damaged, or of another recipe.
    """
    if not folder.exists():
        return None
    try:
        record = seals.open_sealed(json_files.read_object(folder / _RECORD))
        if record.get("recipe") != json.loads(json.dumps(dict(recipe))):
            raise ValueError(f"{_RECORD} is of another recipe")
        if record.get("arrays") != _digest(folder / _ARRAYS):
            raise ValueError(f"{_ARRAYS} was changed after it was written")
        with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, errors.ElmError) as error:
        raise errors.DataError(
            found=f"{folder}: {errors.reason(error)}",
            expected="the files as they were written",
            do="Remove this folder: it is made again when it is needed",
        ) from error


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
