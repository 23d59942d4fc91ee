"""What a mixture of experts costs, in operations and bytes, from shapes alone."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from elm_jax import trees
from elm_jax.library import catalogue
from elm_jax.model import config as config_lib
from elm_jax.model import cost, precision, t5
from elm_jax.peft import mixture
from elm_jax.routing import input_routers
from elm_jax.runs import (
    behaviour_scores,
    queries,
    routing_records,
    score_cost,
    task_data,
)
from elm_jax.runs.strategy import Strategy
from elm_jax.types import Params

_NORMS = f"_norm/{mixture.EXPERTS}/"
_ROUTERS = f"_(adapter|norm)/{mixture.ROUTER}/"
# What a mixture adds to its base; layer norms that are not routed are the base's.
_ADDED = f"_adapter/|_norm/({mixture.EXPERTS}|{mixture.ROUTER})/"


class TokenCost(NamedTuple):
    """Operations and memory of a model of several experts.

    Attributes:
      base_flops: Operations of the base for one token of an input and one of a target.
      expert_flops: What the experts add to them, and their router.
      expert_bytes: Of the parameters of both, as they lie in memory.
    """

    base_flops: int
    expert_flops: int
    expert_bytes: int

    @property
    def share(self) -> float:
        """What the experts add, as a share of the base's operations."""
        return self.expert_flops / self.base_flops


def per_token(shape: config_lib.T5Config, spec: mixture.Mixture) -> TokenCost:
    """Returns the cost of a mixture in a model.

    Only matrix products count; a multiply-add counts as two operations. With
    `only_chosen` the products of the chosen experts count, without the rows that fill
    up blocks; for a router by norms also the first product of each other expert. Scales
    of routed layer norms count for all experts. A router by inputs reads the inputs
    first, in one pass of the encoder with all experts.

    Args:
      shape: Of the model.
      spec: The mixture.
    """
    model = t5.T5(shape, spec.adapter_fn(shape.emb_dim))
    params = precision.in_compute_dtype(shape, t5.param_shapes(model))
    added, base = trees.split(params, _ADDED)
    router, experts = trees.split(added, _ROUTERS)
    batch = cost.BatchShape(batch_size=1, inputs_length=1, targets_length=1)
    base_flops = cost.forward_flops(shape, batch, base)

    def flops_of(part: Params) -> int:
        whole = trees.join(base, part)
        return cost.forward_flops(shape, batch, whole) - base_flops

    norms, adapters = trees.split(experts, _NORMS)
    flops = flops_of(adapters)
    if spec.only_chosen:
        num_chosen = min(spec.router.num_chosen, spec.num_experts)
        flops = flops * num_chosen // spec.num_experts
        if spec.router.needs_norms:
            flops += flops_of(_reading(spec, experts))
    if isinstance(spec.router, input_routers.InputRouter):
        looking = cost.BatchShape(batch_size=1, inputs_length=1, targets_length=0)
        encoder, _ = trees.split(trees.join(base, experts), "^encoder/")
        flops += cost.forward_flops(shape, looking, encoder)
    flops += flops_of(norms) + flops_of(router)  # the scales of all experts are weighed
    return TokenCost(base_flops, flops, trees.count_bytes(added))


def observing(
    shape: config_lib.T5Config,
    spec: mixture.Mixture,
    settings: routing_records.Settings,
    *,
    num_experts: int,
    inputs_length: int,
    targets_length: int,
) -> str:
    """Returns what it costs to record what routers need, as a line of a plan.

    A step for gates passes forward, and backward without gradients of the base.

    Args:
      shape: Of the base.
      spec: A mixture of one expert, with a router that has gates.
      settings: Which rows, and how gates are trained.
      num_experts: That are not observed yet.
      inputs_length: Tokens of a padded input.
      targets_length: Tokens of a padded target.
    """
    model = t5.T5(shape, spec.adapter_fn(shape.emb_dim))
    params = t5.param_shapes(model)
    batch = cost.BatchShape(
        batch_size=1, inputs_length=inputs_length, targets_length=targets_length
    )
    rows = settings.num_examples + 2 * settings.gate_steps * settings.batch_size
    flops = num_experts * rows * cost.forward_flops(shape, batch, params)
    gates = trees.split(params, _ROUTERS)[0]
    # A gate, a mean reading and two numbers of each place.
    size = num_experts * 2 * trees.count_bytes(gates)
    hours = flops / score_cost.USUAL_FLOPS / 3600
    return (
        f"{flops:.2g} FLOPs, {hours:,.1f} hours at"
        f" {score_cost.USUAL_FLOPS / 1e12:g} TFLOP/s; {size / 1e6:,.1f} MB of records"
    )


def plan(
    strategies: Sequence[Strategy],
    retrieval: queries.Queries | None,
    tasks: Sequence[str],
    data: task_data.OpenedData,
    *,
    base_dir: pathlib.Path,
    library_dir: pathlib.Path,
    device_flops: float,
) -> dict[str, object]:
    """Returns what routing costs, for the plan of an evaluation; empty without.

    Args:
      strategies: All of the evaluation.
      retrieval: How the library is asked; None if it is not.
      tasks: That ask.
      data: Where token caches are.
      base_dir: Folder of the base, whose shape counts.
      library_dir: The library.
      device_flops: Operations per second.
    """
    if retrieval is None:
        return {}
    number = len(catalogue.Catalogue(library_dir).experts())
    of_answers = [x.num_looked_at(number) for x in strategies if not x.reads_inputs]
    most = max(of_answers, default=0)
    reading = sum(x.num_looked_at(number) for x in strategies if x.reads_inputs)
    if not most + reading:
        return {}
    parts = score_cost.parts(
        dict.fromkeys(tasks, most + bool(most) + reading),
        (retrieval.split,),
        data,
        most=retrieval.num_queries,
        choose=lambda num_rows, _: range(min(num_rows, retrieval.num_queries)),
    )
    costs = score_cost.describe(base_dir, parts, device_flops=device_flops)
    rows = sum(part.num_rows * part.num_cells for part in parts)
    scored_parts = [f"{most} experts and the base"] if most else []
    scored_parts += (
        [f"{reading} experts on inputs with missing spans"] if reading else []
    )
    return {
        "routing": f"{' and '.join(scored_parts)} on {retrieval.num_queries} rows of"
        f" each of {len(tasks)} tasks: {rows:,} rows at most, less those of"
        f" {behaviour_scores.path(library_dir)}",
        "routing costs, about": costs["cost, about"],
    }


def _reading(spec: mixture.Mixture, experts: Params) -> Params:
    """Returns the parameters that multiply inputs; all where a kind has no such one."""
    names = [part for part, axes in spec.of.axes.items() if axes[0] == "inputs"]
    leaves = trees.flatten(experts)
    part = {n: a for n, a in leaves.items() if any(map(n.endswith, names))}
    return trees.unflatten(part or leaves)


def describe(shape: config_lib.T5Config, spec: mixture.Mixture) -> str:
    """Returns the cost as a line of a plan."""
    costs = per_token(shape, spec)
    experts = f"{spec.num_experts} experts"
    if spec.only_chosen:
        experts = f"{spec.router.num_chosen} of {experts}"
    return (
        f"{experts}: {costs.expert_flops:,} FLOPs for a token of input and one of"
        f" target ({costs.share:.1%} of the base's), {costs.expert_bytes / 1e6:,.1f} MB"
    )
