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

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from elm_jax import errors, trees
from elm_jax.peft import adapters, expert_parts, lora
from elm_jax.types import Params, Side

_PART = re.compile(rf"{expert_parts.ADAPTERS}(.+)$")


def beside(params: Params) -> dict[str, Side]:
    """Returns the parameters of adapters that a sum puts beside each other, by name.

    Args:
      params: An expert's, or a part of them.

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
    linear = {
        n for spec in adapters.KINDS.values() if spec.is_linear for n in spec.beside
    }
    return {
        name: Side(
            *side[part],
            place=name.removesuffix(f"/{part}"),
            is_linear=part in linear,
        )
        for name, part in parts.items()
        if part in side
    }


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


def repeated(
    spec: adapters.AdapterSpec, times: int, rank: int = 0
) -> adapters.AdapterSpec:
    """Returns the spec of so many adapters of one spec beside each other.

    >>> repeated(lora.Lora(rank=4, alpha=8.0), 3)
    Lora(kind='lora', rank=12, alpha=24.0, rank_stabilized=False, dropout=0.0, \
targets='/(query|value)$')

    Args:
      spec: Of the experts' adapters.
      times: As `Merged.num_beside`.
      rank: As `Merged.rank`; if it is not 0, it is the inner width, as of adapters that
        were put beside each other and then cut.

    Raises:
      ConfigError: Adapters of the kind have no rank.
    """
    if rank:
        return spec.of_rank(rank)
    return spec if times == 1 else spec.repeated(times)


def common(specs: Sequence[adapters.AdapterSpec]) -> adapters.AdapterSpec:
    """Returns the one spec that adapters of several can be written in.

    LoRAs may differ in rank, scale and dropout. The result is the one of the highest
    rank; of several, the last in the order of their texts.

    >>> common([lora.Lora(rank=2, alpha=4.0), lora.Lora(rank=4, alpha=4.0)])
    Lora(kind='lora', rank=4, alpha=4.0, rank_stabilized=False, dropout=0.0, \
targets='/(query|value)$')

    Args:
      specs: One or more.

    Raises:
      ConfigError: They differ in anything else.
    """

    def size(spec: adapters.AdapterSpec) -> tuple[int, str]:
        return spec.rank if isinstance(spec, lora.Lora) else 0, repr(spec)

    greatest = max(specs, key=size)  # whatever their order is
    for spec in specs:
        same = spec
        if isinstance(spec, lora.Lora) and isinstance(greatest, lora.Lora):
            same = dataclasses.replace(greatest, targets=spec.targets)
        if same != greatest:
            raise errors.ConfigError(
                found=f"adapters {greatest} and {spec}",
                expected="one spec, or LoRAs of the same targets: no parameter of one"
                " kind of adapters means what one of another kind does",
                do="Merge experts of one kind, or fold LoRAs into whole models first",
            )
    return greatest


def widened(
    params: Params, spec: adapters.AdapterSpec, *, to: adapters.AdapterSpec
) -> dict[str, Any]:
    """Returns an expert whose LoRAs do the same with another spec's rank and scale.

    Args:
      params: The expert's.
      spec: Of its adapters.
      to: Of `common`.
    """
    if spec == to or not isinstance(spec, lora.Lora) or not isinstance(to, lora.Lora):
        return dict(params)
    leaves = dict(trees.flatten(params))
    for name, side in beside(params).items():
        leaf = np.asarray(leaves[name])
        if side.takes_factor and spec.scale != to.scale:
            factor = spec.scale / to.scale
            leaf = (leaf.astype(np.float64) * factor).astype(leaf.dtype)
        sizes = [(0, 0)] * leaf.ndim
        sizes[side.axis] = (0, to.rank - spec.rank)
        leaves[name] = np.pad(leaf, sizes)
    return trees.unflatten(leaves)
