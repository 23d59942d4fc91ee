"""What adapters add to their base, in a form in which it can be summed exactly.

The base of an adapter is no parameter of the base model, which has none: it is the
adapter that adds nothing. An expert's difference from its base is then the effect of
its adapters, and sums of effects are adapters again:

| kind | effect on a projection or sub-layer | a sum of effects |
|---|---|---|
| `lora` | `scale * x A B` | `A`s side by side, `B`s below each other: ranks add up |
| `bottleneck` | `U g(D x + b) + c` | `D`s, `U`s likewise: widths add up; `c`s added |
| `ia3` | `y * (factors - 1)` | the same, with the sum of the distances from 1 |

All other parameters that an expert holds, such as layer norms, are added up as they
are. A factor on an expert's effect goes to `B`, or to `U` and `c`.

PEFT knows this sum of LoRAs as `cat`, and besides it `linear`, which adds up the `A`s
and the `B`s and so multiplies every expert's `A` with every other's `B`, and `svd`,
which cuts the sum to a rank. Only `cat` is the sum itself.

Reference:
  Ilharco et al., https://arxiv.org/abs/2212.04089, section 2, for whole models;
  huggingface/peft 0.21, LoraModel.add_weighted_adapter, combination type `cat`.
"""

import re
from typing import Any

import numpy as np

from elm_jax import errors, trees
from elm_jax.peft import adapters, expert_parts
from elm_jax.types import Params

_PART = re.compile(rf"{expert_parts.ADAPTERS}(.+)$")


def beside(params: Params) -> dict[str, tuple[int, bool]]:
    """Returns the parameters of adapters that a sum puts beside each other.

    Args:
      params: An expert's.

    Returns:
      By name, the axis, and whether an expert's factor belongs there.

    Raises:
      ConfigError: An adapter has parameters of which no sum is defined.
    """
    side, rest = adapters.merged("beside"), adapters.merged("neutral")
    matches = {name: _PART.search(name) for name in trees.flatten(params)}
    parts = {name: match[1] for name, match in matches.items() if match}
    unknown = [n for n, part in parts.items() if part not in {**side, **rest}]
    if unknown:
        raise errors.ConfigError(
            found=f"adapters with {', '.join(unknown)}",
            expected=f"parameters named {', '.join({**side, **rest})}",
            do="Merge by averaging (uniform, weighted), which needs no base",
        )
    return {name: side[part] for name, part in parts.items() if part in side}


def neutral(params: Params) -> dict[str, Any]:
    """Returns the other parameters of an expert's adapters, as they add nothing."""
    rest = adapters.merged("neutral")
    return trees.unflatten(
        {
            name: np.full(leaf.shape, rest[match[1]], leaf.dtype)
            for name, leaf in trees.flatten(params).items()
            if (match := _PART.search(name)) and match[1] in rest
        }
    )


def repeated(spec: adapters.AdapterSpec, times: int) -> adapters.AdapterSpec:
    """Returns the spec of so many adapters of one spec beside each other.

    >>> from elm_jax.peft import lora
    >>> repeated(lora.Lora(rank=4, alpha=8.0), 3)
    Lora(kind='lora', rank=12, alpha=24.0, rank_stabilized=False, dropout=0.0, \
targets='/(query|value)$')
    """
    return spec if times == 1 else spec.repeated(times)
