"""Whether a merge is there already, and is the one that is asked for."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from elm_jax.checkpoints import manifest, recipes
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import (
    measuring,
    merged_params,
    search_rows,
    searched_recipes,
    searches,
    task_data,
)

_DO = "Undo the change, choose another expert_name, or remove the folder"


class Asked(NamedTuple):
    """All that decides a merge.

    Attributes:
      method: How, but for coefficients that are searched.
      infos: Manifests of the experts.
      source: Where statistics come from; None for a method that needs none.
      search: Of coefficients, or None.
      data: Where the rows of the search are; None where there is no search, or its
        rows are not to be compared.
    """

    method: MergeMethod
    infos: Sequence[manifest.Manifest]
    source: measuring.Source | None
    search: searches.Search | None
    data: task_data.OpenedData | None


def search_told(search: searches.Search, method: MergeMethod) -> dict[str, Any]:
    """Returns what a recipe tells of a search that is asked for."""
    return {"asked": search.recipe() | {"method": method.recipe()}}


def is_there(folder: pathlib.Path, asked: Asked) -> bool:
    """Returns whether this very merge is in a folder.

    Raises:
      CheckpointError: Another one is.
    """
    if not (folder / manifest.FILE_NAME).is_file():
        return False
    there, method, search = manifest.read_manifest(folder), asked.method, asked.search
    before = dict(there.data.get("merge", {}))
    searched = before.get("search", {})
    now = _as_recorded(merged_params.recipe(method, asked.infos, asked.source), before)
    if search is not None or "search" in before:
        # What was found is in the recipe, and is not searched again.
        if search is not None:
            now = now | {"search": search_told(search, method)}
        before, now = (searched_recipes.asked(each, method) for each in (before, now))
    what = f"merge {folder}"
    recipes.check_same(
        what,
        before | {"base": there.base_fingerprint},
        now | {"base": asked.infos[0].base_fingerprint},
        do=_DO,
    )
    if search is not None and asked.data is not None:
        parts = search_rows.open_rows(search.rows, asked.data)
        rows = {"rows": searched_recipes.rows_told(parts)}
        recipes.check_same(what, {"rows": searched["rows"]}, rows, do=_DO)
    return True


def _as_recorded(recipe: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Returns a recipe without what releases before did not record."""
    now = dict(recipe)
    if before and "fingerprints" not in before:
        print("a merge of release 0.1: its experts are compared by name")  # noqa: T201
        del now["fingerprints"]
    if "recipes" not in before:  # up to release 0.1
        del now["recipes"], now["seeds"]
    if "base_model" not in before.get("measured", {}):  # likewise
        now.get("measured", {}).pop("base_model", None)
    if "parts" not in before:  # of merges before this was recorded
        now.pop("parts", None)
    return now
