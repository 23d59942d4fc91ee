"""Experts of different widths in one model, and what routers know of them."""

import dataclasses

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import manifest
from elm_jax.peft import bottleneck, lora
from elm_jax.routing import directions, token_routers
from elm_jax.runs import (
    loaded,
    routed_tokens,
    routing_records,
    strategies,
)
from tests.runs import scored, toy
from tests.runs.routed import SETTINGS, check_is_expert, chosen, save_expert

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toy_tasks")]
NAMES = "plain", "twice"
# Of the first and the second expert; LoRAs start without an effect.
WIDTHS = {
    "bottlenecks": [
        bottleneck.Bottleneck(reduction_factor=n, init_std=0.3) for n in (8, 2)
    ],
    "loras": [
        lora.Lora(rank=3, alpha=2.0, rank_stabilized=True),
        lora.Lora(rank=2, alpha=9.0),
    ],
}


@pytest.fixture(scope="module", params=[*WIDTHS])
def folder(request, tmp_path_factory):
    """A base and two experts of different widths."""
    folder = tmp_path_factory.mktemp("widths")
    scored.save_base(folder)
    for seed, (name, spec) in enumerate(zip(NAMES, WIDTHS[request.param], strict=True)):
        save_expert(folder, name, seed, spec=spec)
    return folder


def infos_of(folder):
    return [manifest.read_manifest(folder / "experts" / name) for name in NAMES]


@pytest.mark.parametrize("number", [0, 1])
def test_an_expert_of_weight_1_among_others_of_other_widths_is_that_expert(
    folder, number
):
    """Up to rounding: products of other lengths are added up in another order."""
    router = token_routers.Fixed(weights=tuple(np.eye(2)[number].tolist()))
    candidate = dataclasses.replace(chosen(folder, router), norms_of=NAMES[number])
    check_is_expert(candidate, folder, NAMES[number])


def test_routers_know_experts_by_what_these_are_without_padding(folder):
    base = loaded.Base.load(folder / "base")
    experts = [loaded.Expert.load(folder / "experts" / name) for name in NAMES]
    by_arrow = trees.flatten(chosen(folder, token_routers.Arrow()).load(base)[0])
    arrows = [directions.arrow_directions(expert.params) for expert in experts]
    rng = np.random.default_rng(0)
    gates = [
        {place: {"gate": rng.normal(size=(1, 16)).astype("f")} for place in arrows[0]}
        for _ in experts
    ]
    records = folder / "library" / "routing"
    for info, of_expert in zip(infos_of(folder), gates, strict=True):
        routing_records.write(records, info, SETTINGS, of_expert, {})
    by_gates = trees.flatten(chosen(folder, token_routers.Gates()).load(base)[0])
    for place in arrows[0]:
        for number in range(2):
            arrow = by_arrow[f"{place}/router/direction"][:, number]
            np.testing.assert_array_equal(arrow, arrows[number][place])
            gate = by_gates[f"{place}/router/gate"][:, number]
            np.testing.assert_array_equal(gate, gates[number][place]["gate"])
    padded = [n for n in by_arrow if "/experts/" in n]
    assert padded
    for number, expert in enumerate(experts):  # padding has no direction
        part = {n.replace("/experts", ""): by_arrow[n][:, number] for n in padded}
        of_padded = directions.arrow_directions(trees.unflatten(part))
        of_expert = directions.arrow_directions(expert.params)
        for place, arrow in of_expert.items():
            cosine = np.abs(np.sum(arrow * of_padded[place], axis=-1))
            np.testing.assert_allclose(cosine, 1, rtol=1e-6)


def test_a_plan_counts_padded_experts_as_wide_as_the_widest(folder):
    infos = infos_of(folder)
    tokens = routed_tokens.RoutedTokens(router=token_routers.Fixed())
    shares = [tokens.added_share(scored.SHAPE, [info, info]) for info in infos]
    assert shares[0] != shares[1]
    assert tokens.added_share(scored.SHAPE, infos) == max(shares)


def test_evaluations_mix_experts_of_several_widths_and_do_not_average_them(folder):
    toy.build(folder).run()
    tokens = routed_tokens.RoutedTokens(router=token_routers.Arrow(top_k=1))
    run = toy.score(folder, experts=(), strategies=("base", tokens))
    run.run()
    both = "base", tokens, strategies.MergeAll()
    averaged = dataclasses.replace(run, strategies=both)
    with pytest.raises(errors.ConfigError, match="one adapter spec"):
        averaged.plan()
