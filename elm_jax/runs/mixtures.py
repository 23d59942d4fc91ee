"""Which mixture a router makes of experts, by what it knows of them."""

from elm_jax import errors
from elm_jax.peft import adapters, mixture
from elm_jax.runs import routing_records

# Parameters of routers that are known without records, and without the experts'.
SET = frozenset({"weight", "random_direction"})


def make(
    spec: adapters.AdapterSpec,
    number: int,
    router: mixture.Router,
    *,
    only_chosen: bool,
    settings: routing_records.Settings,
    routes_norms: bool = False,
) -> mixture.Mixture:
    """Returns a mixture whose router reads the inputs that its records are of.

    Args:
      spec: The spec of each expert's adapters.
      number: The number of experts.
      router: What weighs them.
      only_chosen: Whether a token's experts without a weight are not computed.
      settings: Of the records.
      routes_norms: Whether layer norms weigh the experts' scales, too.

    Raises:
      ConfigError: As `mixture.Mixture`; or layer norms are to be routed, and the router
        does not know what goes into sub-layers.
    """
    knows_norms = router.is_same_everywhere or (
        needs_records(router) and settings.reads == "sub_layer"
    )
    if routes_norms and not knows_norms:
        raise errors.ConfigError(
            found=f"layer norms to be routed by {router}, which reads what adapters do",
            expected="the same weights everywhere, or records of what goes into"
            " sub-layers, as a layer norm gives it",
            do='Set routing_records.Settings.reads = "sub_layer" for gates or means, or'
            " average the layer norms",
        )
    return mixture.Mixture(
        of=spec,
        num_experts=number,
        router=router,
        only_chosen=only_chosen,
        # A direction is one of what its adapter reads.
        reads=settings.reads if needs_records(router) else "adapter",
        routes_norms=routes_norms,
    )


def needs_records(router: mixture.Router) -> bool:
    """Returns whether a router has parameters that `observe.Observe` records."""
    return not {"direction", *SET} >= {*router.shapes(1)}
