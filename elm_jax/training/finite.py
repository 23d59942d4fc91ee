"""A training stops at numbers that are not finite, and never saves any.

The loss of a step is of the parameters before it, so that metrics say nothing of the
step's own update: states are looked at themselves, on their devices, before they are
saved and after they are restored.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import errors

LastGood = Callable[[int], str]
"""Names the newest saved state of at most so many steps, for messages."""

_MOST_NAMED = 3


def nothing_saved(most: int) -> str:
    """Says that there is no saved state."""
    del most
    return "none was saved"


def check_metrics(
    metrics: Mapping[str, float], *, step: int, expert: str, last_good: LastGood
) -> None:
    """Raises TrainingError if a metric of a step is not finite.

    The state before the step is then no good one: it leads to the same metrics again,
    whatever the learning rate.
    """
    bad = [f"{n} = {value}" for n, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise _error(
            f"{', '.join(bad)} in step {step} of expert {expert or '(unnamed)'}; step"
            f" {step - 1} was finite",
            expected="finite metrics in every step",
            step=step,
            saved=last_good(step - 2),
        )


def check_state(
    state: Any,
    *,
    step: int,
    expert: str,
    last_good: LastGood = nothing_saved,
    is_restored: bool = False,
) -> None:
    """Raises TrainingError if a number of the state after a step is not finite.

    Args:
      state: Arrays of JAX, of which each process has a part or all, or of numpy.
      step: Updates that it has had.
      expert: Name of what trains.
      last_good: For the message.
      is_restored: Whether it was saved before, as release 0.1 saved any.
    """
    bad = find_not_finite(state)
    if bad:
        name, tensors = expert or "(unnamed)", describe(bad)
        problem = (
            f"the saved state of expert {name} after step {step} has numbers that are"
            f" not finite in {tensors}"
            if is_restored
            else f"the update of step {step} of expert {name} left numbers that are"
            f" not finite in {tensors}; its loss was finite"
        )
        raise _error(
            problem,
            expected="finite parameters and moments of the optimiser after every step",
            step=step,
            saved=last_good(step - 1),
        )


def find_not_finite(tree: Any) -> list[str]:
    """Returns the names of the tensors that hold infinite numbers or NaN.

    Processes that hold parts of the tensors call this together.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [(p, leaf) for p, leaf in paths if jnp.issubdtype(leaf.dtype, np.floating)]
    if any(isinstance(leaf, jax.Array) for _, leaf in leaves):
        finite = jax.device_get(_are_finite([leaf for _, leaf in leaves]))
    else:
        finite = [np.isfinite(leaf).all() for _, leaf in leaves]
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, _), is_finite in zip(leaves, finite, strict=True)
        if not is_finite
    ]


@jax.jit
def _are_finite(leaves: list[Any]) -> list[Any]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def describe(names: list[str]) -> str:
    """Returns how many tensors there are, with the first names."""
    more = ", ..." if len(names) > _MOST_NAMED else ""
    return f"{len(names)} tensors ({', '.join(names[:_MOST_NAMED])}{more})"


def _error(
    problem: str, *, expected: str, step: int, saved: str
) -> errors.TrainingError:
    return errors.TrainingError(
        found=problem,
        expected=expected,
        do="Lower the learning rate or clip_norm, or look at the batch of step"
        f" {step}. Last good checkpoint: {saved}",
    )
