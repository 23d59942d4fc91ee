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


def is_there(folder: pathlib.Path, request: Asked) -> bool:
    """Returns whether the requested merge is in a folder.

    Raises:
      CheckpointError: Another merge is in it.
    """
    if not (folder / manifest.FILE_NAME).is_file():
        return False
    saved_info = manifest.read_manifest(folder)
    method, search = request.method, request.search
    saved = dict(saved_info.data.get("merge", {}))
    searched = saved.get("search", {})
    requested = _as_recorded(
        merged_params.recipe(method, request.infos, request.source), saved
    )
    if search is not None or "search" in saved:
        # What was found is in the recipe, and is not searched again.
        if search is not None:
            requested = requested | {"search": search_told(search, method)}
        saved, requested = (
            searched_recipes.requested_part(made_of, method)
            for made_of in (saved, requested)
        )
    subject = f"merge {folder}"
    recipes.check_same(
        subject,
        saved | {"base": saved_info.base_fingerprint},
        requested | {"base": request.infos[0].base_fingerprint},
        do=_DO,
    )
    if search is not None and request.data is not None:
        parts = search_rows.open_rows(search.rows, request.data)
        rows = {"rows": searched_recipes.rows_as_json(search, parts)}
        recipes.check_same(subject, {"rows": searched["rows"]}, rows, do=_DO)
    return True


def _as_recorded(recipe: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Returns a recipe without fields that the saved one's release did not record."""
    recorded = dict(recipe)
    if saved and "fingerprints" not in saved:
        print("a merge of release 0.1: its experts are compared by name")  # noqa: T201
        del recorded["fingerprints"]
    if "recipes" not in saved:  # up to release 0.1
        del recorded["recipes"], recorded["seeds"]
    if "base_model" not in saved.get("measured", {}):  # likewise
        recorded.get("measured", {}).pop("base_model", None)
    if "parts" not in saved:  # of merges before this was recorded
        recorded.pop("parts", None)
    return recorded
