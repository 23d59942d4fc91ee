"""The kinds of adapters, by name."""

from typing import Any, TypeVar

from elm_jax import errors
from elm_jax.peft import bottleneck, ia3, kind, lora, mixture

AdapterSpec = kind.AdapterKind
AnySpec = kind.AdapterKind | mixture.Mixture
"""What a model that is scored may have: an expert's adapters, or those of several."""

_Kind = TypeVar("_Kind", bound=type[kind.AdapterKind])

KINDS: dict[str, type[kind.AdapterKind]] = {}


def register(spec: _Kind) -> _Kind:
    """Makes a kind of adapters known under its name; a decorator.

    Args:
      spec: A frozen dataclass, a subclass of `kind.AdapterKind`.

    Raises:
      ConfigError: Another class has the name, or a parameter has other axes, or adds
        up in another way, than one of the same name has in another kind.
    """
    fields: Any = vars(spec).get("__dataclass_fields__", {})
    name = fields["kind"].default if "kind" in fields else None
    problem = ""
    if not isinstance(name, str) or not name.isidentifier():
        problem = "which has no field `kind` with its name"
    elif name in KINDS and _place(KINDS[name]) != _place(spec):
        problem = f"whose name {name!r} is that of {_place(KINDS[name])}"
    else:
        for attribute in ("axes", "beside", "neutral"):
            all_parts, spec_parts = merged(attribute), getattr(spec, attribute)
            differing = [
                part
                for part in spec_parts
                if all_parts.get(part, spec_parts[part]) != spec_parts[part]
            ]
            if differing and name not in KINDS:
                problem = (
                    f"whose {attribute} of {', '.join(differing)} another kind has"
                )
                problem += " otherwise"
    if problem:
        raise errors.ConfigError(
            found=f"adapter kind {_place(spec)}, {problem}",
            expected="a dataclass with a name, and names of parameters, of its own",
            do="Rename the kind or the parameters of its module",
        )
    KINDS[str(name)] = spec
    return spec


def merged(attribute: str) -> dict[str, Any]:
    """Returns what all kinds say of their parameters, by the parameters' names.

    Args:
      attribute: `axes`, `beside` or `neutral`.
    """
    by_part: dict[str, Any] = {}
    for spec in KINDS.values():
        by_part |= getattr(spec, attribute)
    return by_part


def axes_of(part: str, num_axes: int) -> tuple[str, ...]:
    """Returns the logical axes of an adapter's parameter; () of an unknown one.

    >>> axes_of("experts/lora_a", 3)
    ('experts', 'inputs', 'adapter')

    Args:
      part: Its name below `..._adapter/`.
      num_axes: How many it has, layers not counted.
    """
    first, _, rest = part.partition("/")
    if first == mixture.ROUTER:
        return ("experts", *("adapter",) * (num_axes - 1))
    axes: dict[str, tuple[str, ...]] = merged("axes")
    if first == mixture.EXPERTS and rest in axes:
        return ("experts", *axes[rest])
    return axes.get(part, ())


def spec_type(name: object) -> type[kind.AdapterKind]:
    """Returns the dataclass that specifies adapters of a kind.

    >>> spec_type("lora").__name__
    'Lora'

    Raises:
      ConfigError: There is no such kind.
    """
    if not isinstance(name, str) or name not in KINDS:
        near = errors.did_you_mean(str(name), KINDS)
        raise errors.ConfigError(
            found=f"adapter kind {name!r}; {near}",
            expected=f"one of {', '.join(KINDS)}",
            do="Correct the adapter's kind, or import the module that registers it",
        )
    return KINDS[name]


def _place(spec: type) -> str:
    return f"{spec.__module__}.{spec.__qualname__}"


for _spec in (bottleneck.Bottleneck, bottleneck.BottleneckSum, lora.Lora, ia3.Ia3):
    register(_spec)
