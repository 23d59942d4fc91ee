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
from elm_jax.peft import adapters, bottleneck, expert_parts, lora
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
    """Returns the spec of this many adapters of one spec beside each other.

    >>> repeated(lora.Lora(rank=4, alpha=8.0), 3)
    Lora(kind='lora', rank=12, alpha=24.0, rank_stabilized=False, dropout=0.0, \
targets='/(query|value)$')

    Args:
      spec: Of the experts' adapters.
      times: How many adapters lie beside each other.
      rank: Inner width of adapters that were put beside each other and then cut; 0 if
        they were not cut.

    Raises:
      ConfigError: Adapters of the kind have no rank.
    """
    if rank:
        return spec.of_rank(rank)
    return spec if times == 1 else spec.repeated(times)


def common(specs: Sequence[adapters.AdapterSpec]) -> adapters.AdapterSpec:
    """Returns the one spec in which adapters of several specs can be written.

    LoRAs may differ in rank, scale and dropout, bottlenecks in their width and how they
    start. The result is the widest one; of several, the last in the order of their
    texts.

    >>> common([lora.Lora(rank=2, alpha=4.0), lora.Lora(rank=4, alpha=4.0)])
    Lora(kind='lora', rank=4, alpha=4.0, rank_stabilized=False, dropout=0.0, \
targets='/(query|value)$')

    Args:
      specs: One or more.

    Raises:
      ConfigError: They differ in anything else.
    """

    def width(spec: adapters.AdapterSpec) -> tuple[int, str]:
        if isinstance(spec, bottleneck.Bottleneck):
            return -spec.reduction_factor, repr(spec)
        return spec.rank if isinstance(spec, lora.Lora) else 0, repr(spec)

    widest = max(specs, key=width)  # whatever their order is
    for spec in specs:
        if _with_width_of(widest, spec) != widest:
            raise errors.ConfigError(
                found=f"adapters {widest} and {spec}",
                expected="one spec, or LoRAs of the same targets, or bottlenecks that"
                " differ in width: no parameter of one kind of adapters means what one"
                " of another kind does",
                do="Take experts of one kind, or fold LoRAs into whole models first",
            )
    return widest


def _with_width_of(
    widest: adapters.AdapterSpec, spec: adapters.AdapterSpec
) -> adapters.AdapterSpec:
    """Returns a spec with the width, and the options without effect, of another."""
    names: tuple[str, ...] = ()
    if isinstance(spec, lora.Lora) and isinstance(widest, lora.Lora):
        names = "rank", "alpha", "rank_stabilized", "dropout"
    elif type(spec) is type(widest) is bottleneck.Bottleneck:
        names = "reduction_factor", "init_std", "start_at_identity"
    return dataclasses.replace(spec, **{name: getattr(widest, name) for name in names})


def widened(
    params: Params, spec: adapters.AdapterSpec, *, to: adapters.AdapterSpec
) -> dict[str, Any]:
    """Returns an expert whose adapters do the same with another spec's width and scale.

    What is added to their width is 0. A bottleneck's new units read nothing, and nobody
    reads them, whatever the activation makes of 0.

    Args:
      params: The expert's.
      spec: The spec of the expert's adapters.
      to: The spec that `common` returns.
    """
    factor, times, parts = 1.0, 1, 1
    if isinstance(spec, lora.Lora) and isinstance(to, lora.Lora):
        factor, times, parts = spec.scale / to.scale, to.rank, spec.rank
    elif isinstance(spec, bottleneck.Bottleneck) and isinstance(to, type(spec)):
        times, parts = spec.reduction_factor, to.reduction_factor
    if factor == 1 and times == parts:
        return dict(params)
    leaves = dict(trees.flatten(params))
    for name, side in beside(params).items():
        leaf = np.asarray(leaves[name])
        if side.takes_factor and factor != 1:
            leaf = (leaf.astype(np.float64) * factor).astype(leaf.dtype)
        sizes, width = [(0, 0)] * leaf.ndim, leaf.shape[side.axis]
        sizes[side.axis] = (0, width * times // parts - width)
        leaves[name] = np.pad(leaf, sizes)
    return trees.unflatten(leaves)
