"""What mixtures cost, against counts by hand."""

import dataclasses

import pytest

from elm_jax.model import config, cost, t5
from elm_jax.peft import bottleneck, lora, mixture
from elm_jax.routing import input_routers, token_routers
from elm_jax.runs import routing_cost, routing_records

WIDTH, MIDDLE, EXPERTS, PLACES = 16, 4, 6, 4
SHAPE = config.T5Config(
    vocab_size=32,
    emb_dim=WIDTH,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
SPEC = bottleneck.Bottleneck(reduction_factor=WIDTH // MIDDLE)
# Of one expert at one place: two matrices, and two vectors that weights multiply.
OF_EXPERT = 2 * WIDTH * MIDDLE + MIDDLE + WIDTH


def mixed(router=token_routers.Arrow(top_k=2), spec=SPEC, **options):  # noqa: B008
    return mixture.Mixture(of=spec, num_experts=EXPERTS, router=router, **options)


def test_all_experts_and_their_directions_are_counted():
    costs = routing_cost.per_token(SHAPE, mixed())
    assert costs.expert_flops == 2 * PLACES * EXPERTS * (OF_EXPERT + WIDTH)
    assert costs.expert_bytes == 4 * PLACES * EXPERTS * (OF_EXPERT + WIDTH)
    batch = cost.BatchShape(batch_size=1, inputs_length=1, targets_length=1)
    base = cost.forward_flops(SHAPE, batch, t5.param_shapes(t5.T5(SHAPE)))
    assert costs.base_flops == base


def test_of_chosen_experts_alone_two_of_six_are_counted_and_all_directions():
    costs = routing_cost.per_token(SHAPE, mixed(only_chosen=True))
    assert costs.expert_flops == 2 * PLACES * (2 * OF_EXPERT + EXPERTS * WIDTH)


def test_a_router_by_norms_needs_the_first_product_of_every_expert():
    norm = token_routers.EffectNorm(top_k=2)
    costs = routing_cost.per_token(SHAPE, mixed(norm, only_chosen=True))
    down = WIDTH * MIDDLE
    assert costs.expert_flops == 2 * PLACES * (2 * OF_EXPERT + EXPERTS * down)


def test_a_router_by_inputs_encodes_them_twice_with_all_experts():
    costs = routing_cost.per_token(SHAPE, mixed(input_routers.Logo(top_k=2)))
    # Query, key, value and output; three of the gated block; a query with one key.
    weights = 4 * WIDTH * 16 + 3 * WIDTH * 24
    attention = 2 * 16
    looking = 2 * (weights + attention + 2 * EXPERTS * OF_EXPERT)
    assert costs.expert_flops == looking + 2 * PLACES * EXPERTS * OF_EXPERT


def test_routed_norms_of_tokens_are_counted_with_their_routers():
    """By gates those in front of the places, by weights of the task all seven."""
    options = {"reads": "sub_layer", "routes_norms": True}
    costs = routing_cost.per_token(SHAPE, mixed(token_routers.Gates(), **options))
    of_norm = 2 * WIDTH  # a scale and a gate
    numbers = PLACES * EXPERTS * (OF_EXPERT + WIDTH + of_norm)
    assert costs.expert_flops == 2 * numbers
    assert costs.expert_bytes == 4 * numbers
    gates, chosen = token_routers.Gates(top_k=1), {"only_chosen": True, **options}
    costs = routing_cost.per_token(SHAPE, mixed(gates, **chosen))
    numbers = PLACES * (OF_EXPERT + EXPERTS * (WIDTH + of_norm))
    assert costs.expert_flops == 2 * numbers
    task = mixed(token_routers.FirstStage(), routes_norms=True)
    costs = routing_cost.per_token(SHAPE, task)
    assert costs.expert_flops == 2 * EXPERTS * (PLACES * OF_EXPERT + 7 * WIDTH)
    plain = routing_cost.per_token(SHAPE, mixed(token_routers.FirstStage()))
    assert costs.base_flops == plain.base_flops


def test_experts_of_a_narrow_model_take_half_the_bytes_and_routers_do_not():
    narrow = dataclasses.replace(SHAPE, dtype="bfloat16")
    costs = routing_cost.per_token(narrow, mixed())
    assert costs.expert_bytes == PLACES * EXPERTS * (2 * OF_EXPERT + 4 * WIDTH)


def test_a_plan_tells_share_and_size():
    description = routing_cost.describe(SHAPE, mixed(only_chosen=True))
    assert description.startswith("2 of 6 experts: ")
    assert description.endswith("0.0 MB")
    assert "% of the base's" in description
    loras = mixed(spec=lora.Lora(rank=2))
    assert "6 experts" in routing_cost.describe(SHAPE, loras)


@pytest.mark.parametrize(("steps", "rows"), [(0, 10), (5, 10 + 2 * 5 * 4)])
def test_observing_costs_passes_over_rows_and_two_for_each_step_of_gates(steps, rows):
    settings = routing_records.Settings(num_examples=10, batch_size=4, gate_steps=steps)
    mixed_spec = mixture.Mixture(of=SPEC, num_experts=1, router=token_routers.Gates())
    description = routing_cost.observing(
        SHAPE, mixed_spec, settings, num_experts=3, inputs_length=8, targets_length=2
    )
    batch = cost.BatchShape(batch_size=1, inputs_length=8, targets_length=2)
    model = t5.T5(SHAPE, mixed_spec.adapter_fn(WIDTH))
    flops = 3 * rows * cost.forward_flops(SHAPE, batch, t5.param_shapes(model))
    assert description.startswith(f"{flops:.2g} FLOPs")
