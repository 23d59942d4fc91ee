"""What the recipe of a merge records of a search, and what of it was asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from elm_jax.merging.method import MergeMethod
from elm_jax.runs import search_rows, searches


def requested_part(recipe: Mapping[str, Any], method: MergeMethod) -> dict[str, Any]:
    """Returns what a merge's recipe says was requested, without what the search found.

    Args:
      recipe: The merge's recipe.
      method: Whose options a search may have changed.
    """
    rest = dict(recipe)
    search = rest.pop("search", {})
    if not search:
        return rest | {"search": "none"}
    searched = {"method", "of", "weights_of", *method.recipe(), "weights"}
    fixed = {name: value for name, value in rest.items() if name not in searched}
    return fixed | {"search": search["asked"]}


def rows_as_json(
    search: searches.Search, parts: Sequence[search_rows.Part]
) -> dict[str, Any]:
    """Returns what a recipe tells of the rows that choose, by task.

    Where a search reads probabilities, a task whose rows have choices of one text says
    so: what is found is not what it was before these counted once.
    """
    recipes = {part.dataset.name: part.as_json for part in parts}
    for part in parts if search.by_probability else ():
        if part.has_equal_choices:
            recipes[part.dataset.name]["choices"] = "by text"
    return recipes
