"""Merging again as the recipe in the manifest of a merge tells."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.merging import methods
from elm_jax.merging.method import MergeMethod
from elm_jax.runs import merged_params

# What a recipe tells besides its method: of what and by what it was chosen.
_OF_WHAT = ("experts", "fingerprints", "recipes", "seeds", "parts")
_BY_WHAT = ("measured", "search")


def method_of(
    recipe: Mapping[str, Any], infos: Sequence[manifest.Manifest]
) -> MergeMethod:
    """Returns the method by which a merge was made, to make it again.

    It has the coefficients that a search has chosen, and searches nothing. What was
    measured with experts is not in a recipe, but has to be measured again. The recipes
    of release 0.1 have no fingerprints: their experts are compared by name.

    Args:
      recipe: `manifest.data["merge"]` of the merge.
      infos: Manifests of the experts that are to be merged again.

    Raises:
      ConfigError: The experts are not those of the recipe in its order, in which it has
        weights; or it names no known method, or an option that the method has not.
    """
    saved = json.loads(json.dumps(recipe))
    current = {
        "experts": [info.name for info in infos],
        "fingerprints": [info.fingerprint for info in infos],
    }
    compared = "fingerprints" if "fingerprints" in saved else "experts"
    if saved.get(compared) != current[compared]:
        raise errors.ConfigError(
            found=f"experts {current['experts']} of fingerprints"
            f" {current['fingerprints']}",
            expected=f"those of the recipe, {saved.get('experts')} of fingerprints"
            f" {saved.get('fingerprints', 'that it does not tell')}, in this order",
            do="Give the experts of which the merge was made, in its order",
        )
    # Every recipe has these, also those of methods that have no such option.
    old_options = json.loads(json.dumps(merged_params.OPTIONS_BEFORE)).items()
    options = {
        name: value
        for name, value in saved.items()
        if name not in _OF_WHAT + _BY_WHAT and (name, value) not in old_options
    }
    return methods.from_recipe(options)
