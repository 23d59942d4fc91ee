"""What a result was made of, so that asking again can tell whether it is the same.

A command that finds its result there compares what is asked now with the recipe that
the result carries, field by field, before it says "finished already". Experts and
bases carry it in their manifests, exports in a file of their own.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from elm_jax import errors, paths, trees
from elm_jax.disk import files, json_files

FILE_NAME = "elm_jax.json"


def find_changes(
    old_values: Mapping[str, Any], new_values: Mapping[str, Any]
) -> list[str]:
    """Returns what differs between two configurations, each with both values.

    >>> find_changes({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    ['a/b: 1 before, 3 now']

    Args:
      old_values: JSON values by name, nested or not.
      new_values: JSON values by name, to compare with these.
    """
    old, new = trees.flatten(old_values), trees.flatten(new_values)
    return [
        f"{name}: {old.get(name)!r} before, {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def check_same(
    result: object,
    saved: Mapping[str, Any],
    requested: Mapping[str, Any],
    *,
    do: str = "Undo the change, choose another name or folder for the result, or remove"
    " what is there to make it anew",
) -> None:
    """Raises CheckpointError unless a finished result is the one that is asked for.

    Args:
      result: Its name, for the message.
      saved: The recipe of the result: JSON values by name, nested or not.
      requested: The recipe of what is asked for; tuples count as lists.
      do: What a user can do.
    """
    changes = find_changes(saved, json.loads(json.dumps(dict(requested))))
    if changes:
        raise errors.CheckpointError(
            found=f"{result} is finished, and was made otherwise: {'; '.join(changes)}",
            expected="the recipe that it was made by",
            do=do,
        )


def make_once(make: Callable[[], object], is_finished: Callable[[], bool]) -> bool:
    """Makes a result, unless another process does meanwhile; returns who did.

    Args:
      make: Raises ExistsError if there is something already.
      is_finished: Compares the recipe of what is there with the one that is asked
        for; False if what is there is no result.

    Returns:
      Whether it was made here; else the same result has been made elsewhere.

    Raises:
      ElmError: As `make` does, or as `is_finished` of a result made otherwise.
    """
    try:
        make()
    except errors.ExistsError:
        if not is_finished():
            raise
        return False
    return True


def inside(folder: pathlib.Path) -> pathlib.Path:
    """Returns where the recipe of a folder without a manifest lies."""
    return folder / FILE_NAME


def beside(file: pathlib.Path) -> pathlib.Path:
    """Returns where the recipe of a single file lies.

    Raises:
      ConfigError: The file's name leaves no room for its ending.
    """
    return paths.absolute(file.with_name(f"{file.name}.{FILE_NAME}"))


def write(path: pathlib.Path, recipe: Mapping[str, Any]) -> None:
    """Writes a recipe to its place."""
    text = json.dumps(dict(recipe), indent=2, sort_keys=True, allow_nan=False)
    files.write_text(path, text + "\n")


def read(path: pathlib.Path) -> dict[str, Any]:
    """Returns the recipe that `write` left.

    Raises:
      CheckpointError: There is none that can be read.
    """
    try:
        recipe = json_files.read_object(path)
    except (OSError, ValueError) as error:
        raise errors.CheckpointError(
            found=f"a result in {path.parent}, but no recipe {path.name}: {error}",
            expected="the file that tells what it was made of",
            do="Remove the result to make it anew, or choose another place",
        ) from error
    return recipe
