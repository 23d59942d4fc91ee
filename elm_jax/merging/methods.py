"""The merge methods that can be named by their names, and made again from recipes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

from elm_jax import errors, fields
from elm_jax.disk import json_files
from elm_jax.merging import (
    aligning,
    averages,
    by_name,
    closed_form,
    elementwise,
    geometry,
    narrowing,
    noise,
    regression,
    selecting,
    spectral,
    task_arithmetic,
)
from elm_jax.merging.method import MergeMethod

METHODS: Mapping[str, type[MergeMethod]] = {
    method.name: method
    for method in (
        averages.Uniform,
        averages.Weighted,
        averages.RunningMean,
        aligning.AlignedAverage,
        task_arithmetic.TaskArithmetic,
        spectral.LowRankSum,
        narrowing.Narrowed,
        elementwise.Elementwise,
        elementwise.Ties,
        elementwise.Magnitude,
        elementwise.Dare,
        elementwise.DareTies,
        elementwise.Della,
        elementwise.Breadcrumbs,
        elementwise.BreadcrumbsTies,
        selecting.MagMax,
        selecting.Sce,
        selecting.Consensus,
        selecting.Emr,
        spectral.Knots,
        spectral.TsvMerge,
        spectral.IsoC,
        spectral.IsoCts,
        closed_form.Covariance,
        closed_form.Wudi,
        closed_form.Ace,
        regression.RegMean,
        regression.Fisher,
        geometry.ModelStock,
        geometry.Slerp,
    )
}

_SPARSE = "elementwise: its rules are for sparse changes of reinforcement learning"
_IN_TURN = "task_arithmetic: it is for experts that come one after another"
_FOR_TWO = "slerp for two experts, or uniform, which is the same for experts so near"
INSTEAD: Mapping[str, str] = {
    "linear": "weighted, or task_arithmetic for weights that are below 0",
    "average": "uniform",
    "cat": "task_arithmetic, which puts adapters beside each other",
    "svd": "low_rank_sum with a rank",
    "dare_linear": "dare",
    "ties_svd": "ties, which merges LoRAs in their core",
    "dare_ties_svd": "dare_ties, which merges LoRAs in their core",
    "dare_linear_svd": "dare, which merges LoRAs in their core",
    "magnitude_prune": "magnitude",
    "magnitude_prune_svd": "magnitude, which merges LoRAs in their core",
    "della_linear": '@elementwise.Della() with sign = "all"',
    "isotropic": "iso_c, or iso_cts",
    "tsvm": "tsv_merge",
    "nuslerp": _FOR_TWO,
    "multislerp": _FOR_TWO,
    "karcher": _FOR_TWO,
    "nearswap": "weighted: it moves one model towards another where they are near",
    "arcee_fusion": '@elementwise.Elementwise() with keep = "magnitude"',
    "passthrough": "the expert itself: it is copied, not merged",
    "ram": _SPARSE,
    "ramplus_tl": _SPARSE,
    "greedy_soup": "uniform, with `search = @merge_searches.GreedySoup()`",
    "lorahub": "task_arithmetic, with `search = @merge_searches.LoraHub()`",
    "adamerging": "task_arithmetic, with `search = @merge_searches.AdaMerging()`",
    "doge": "task_arithmetic: it projects gradients of a training",
    "opcm": _IN_TURN,
    "dop": _IN_TURN,
    "frank_wolfe": "uniform, with `search = @merge_searches.GreedySoup()`: it adds one"
    " expert after another, too",
    "svc": "tsv_merge or iso_c: it changes the sizes of a finished merge's directions",
    "regmean_plusplus": "regmean: it measures inputs behind layers that are merged",
}
"""Names that other tools have, and what to take here instead."""


def of(name: str, **options: Any) -> MergeMethod:
    """Returns a method by its name.

    >>> of("task_arithmetic", scale=0.5)
    TaskArithmetic(weights=(), scale=0.5)

    Args:
      name: A name in `METHODS`.
      options: Of the method.

    Raises:
      ConfigError: There is no such method, or it has no such option or value.
    """
    if name in INSTEAD:
        raise errors.ConfigError(
            found=f"merge method {name!r}, a name of another tool",
            expected=f"one of {', '.join(sorted(METHODS))}",
            do=f"Take {INSTEAD[name]}",
        )
    if name not in METHODS:
        raise errors.ConfigError(
            found=f"merge method {name!r}",
            expected=f"one of {', '.join(sorted(METHODS))}",
            do=errors.did_you_mean(name, METHODS),
        )
    return _make_method(METHODS[name], options)


def from_recipe(recipe: Mapping[str, Any]) -> MergeMethod:
    """Returns the method that a recipe tells, as `MergeMethod.recipe` gives it.

    >>> from_recipe({"method": "task_arithmetic", "weights": [1.0, 0.0], "scale": 0.5})
    TaskArithmetic(weights=(1.0, 0.0), scale=0.5)

    Args:
      recipe: JSON values. Options that it does not tell have their defaults.

    Raises:
      ConfigError: It is of none of `METHODS`, `by_name` and `noise`, or tells what the
        method has no option for, or a value that an option cannot have.
    """
    options = {
        option: tuple(value) if isinstance(value, list) else value
        for option, value in recipe.items()
        if option != "method"
    }
    name = recipe.get("method")
    if name == by_name.ByName.name:
        return _by_name({n: value for n, value in recipe.items() if n != "method"})
    if name == noise.Noise.name:
        return _make_method(noise.Noise, options)
    if not isinstance(name, str):
        raise errors.ConfigError(
            found=f"a recipe whose method is {json_files.shown(name)}",
            expected=f"one of {', '.join(sorted(METHODS))}",
            do="Take the recipe of a merge, as its manifest has it",
        )
    return of(name, **options)


class _ByNameRecipe(TypedDict):
    of: dict[str, Any]
    weights_of: tuple[tuple[str, tuple[fields.Finite, ...]], ...]


def _by_name(recipe: Mapping[str, Any]) -> by_name.ByName:
    problems = json_files.misfits(recipe, _ByNameRecipe)
    weights_of = {}
    for pattern, weights in () if problems else recipe["weights_of"]:
        if pattern in weights_of:  # of which one alone would be left
            problems.append(f"weights_of has {json_files.shown(pattern)} twice")
        weights_of[pattern] = tuple(weights)
    if problems:
        raise errors.ConfigError(
            found=f"a recipe of weights by name, of which {'; '.join(problems)}",
            expected="`of`, the recipe of a method, and `weights_of`, pairs of a"
            " pattern and weights",
            do="Take the recipe of a merge, as its manifest has it",
        )
    return by_name.ByName(method=from_recipe(recipe["of"]), weights_of=weights_of)


def _make_method(kind: type[MergeMethod], options: Mapping[str, Any]) -> MergeMethod:
    option_names = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in option_names:
            raise errors.ConfigError(
                found=f"{option} {options[option]} for {kind.name}",
                expected=f"{', '.join(option_names) or 'no options'}",
                do=f"Leave {option} out, or take a method that has it:"
                f" {', '.join(_having(option)) or 'there is none'}",
            )
    return kind(**options)


def _having(option: str) -> list[str]:
    return [
        method.name
        for method in METHODS.values()
        if option in [field.name for field in dataclasses.fields(method)]
    ]
