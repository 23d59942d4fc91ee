"""The kinds of adapters, by name."""

from collections.abc import Mapping

from elm_jax import errors
from elm_jax.peft import bottleneck, ia3, lora

# Each is a frozen dataclass, JSON-ready by `dataclasses.asdict`, with a field `kind`
# and a method `adapter_fn(emb_dim)` that gives a types.AdapterFn.
AdapterSpec = bottleneck.Bottleneck | lora.Lora | ia3.Ia3

KINDS: Mapping[str, type[AdapterSpec]] = {
    "bottleneck": bottleneck.Bottleneck,
    "bottleneck_sum": bottleneck.BottleneckSum,
    "lora": lora.Lora,
    "ia3": ia3.Ia3,
}


def spec_type(kind: object) -> type[AdapterSpec]:
    """Returns the dataclass that specifies adapters of a kind.

    >>> spec_type("lora").__name__
    'Lora'

    Raises:
      ConfigError: There is no such kind.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        near = errors.did_you_mean(str(kind), KINDS)
        raise errors.ConfigError(
            found=f"adapter kind {kind!r}; {near}",
            expected=f"one of {', '.join(KINDS)}",
            do="Correct the adapter's kind",
        )
    return KINDS[str(kind)]
