"""The merge methods that can be named by their names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from elm_jax import errors
from elm_jax.merging import (
    aligning,
    averages,
    closed_form,
    elementwise,
    geometry,
    narrowing,
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
    "ram": "elementwise: its rules are for sparse changes of reinforcement learning",
    "greedy_soup": "uniform, with `search = @merge_searches.GreedySoup()`",
    "lorahub": "task_arithmetic, with `search = @merge_searches.LoraHub()`",
    "adamerging": "task_arithmetic, with `search = @merge_searches.AdaMerging()`",
    "doge": "task_arithmetic: it projects gradients of a training",
    "opcm": "task_arithmetic: it is for experts that come one after another",
}
"""Names that other tools have, and what to take here instead."""


def of(name: str, **options: Any) -> MergeMethod:
    """Returns a method by its name.

    >>> of("task_arithmetic", scale=0.5)
    TaskArithmetic(weights=(), scale=0.5)

    Args:
      name: In `METHODS`.
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
    option_names = [field.name for field in dataclasses.fields(METHODS[name])]
    for option in options:
        if option not in option_names:
            raise errors.ConfigError(
                found=f"{option} {options[option]} for {name}",
                expected=f"{', '.join(option_names) or 'no options'}",
                do=f"Leave {option} out, or take a method that has it:"
                f" {', '.join(_having(option)) or 'there is none'}",
            )
    return METHODS[name](**options)


def _having(option: str) -> list[str]:
    return [
        method.name
        for method in METHODS.values()
        if option in [field.name for field in dataclasses.fields(method)]
    ]
