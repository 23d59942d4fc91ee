"""The merge methods that can be named by their names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from elm_jax import errors
from elm_jax.merging.averages import RunningMean, Uniform, Weighted
from elm_jax.merging.method import MergeMethod
from elm_jax.merging.task_arithmetic import TaskArithmetic

METHODS: Mapping[str, type[MergeMethod]] = {
    method.name: method for method in (Uniform, Weighted, RunningMean, TaskArithmetic)
}


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
    if name not in METHODS:
        raise errors.ConfigError(
            found=f"merge method {name!r}",
            expected=f"one of {', '.join(sorted(METHODS))}",
            do=errors.did_you_mean(name, METHODS),
        )
    known = [field.name for field in dataclasses.fields(METHODS[name])]
    for option in options:
        if option not in known:
            raise errors.ConfigError(
                found=f"{option} {options[option]} for {name}",
                expected=f"{', '.join(known) or 'no options'}",
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
