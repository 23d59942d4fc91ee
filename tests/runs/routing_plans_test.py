"""What the plans of the paper's setting tell: T5-XL with 36 or 296 prompt experts."""

import dataclasses
import re
from typing import Any

import pytest

from elm_jax.checkpoints import manifest
from elm_jax.cli import gin_flags
from elm_jax.model import cost, t5
from elm_jax.runs import evaluate, observe
from tests.runs import hollow, scored
from tests.runs.training.xl import XL

NUM_EXPERTS, PLACES, WIDTH, MIDDLE = 36, 4 * 24, 2048, 64
# Two matrices, and two vectors that weights multiply, at each place.
OF_EXPERT = PLACES * (2 * WIDTH * MIDDLE + MIDDLE + WIDTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hollow")
    hollow.make_library(folder, NUM_EXPERTS)
    (folder / "data").mkdir()
    return folder


def built(kind, name, folder) -> Any:
    bindings = {"MODEL_DIR": folder, "DATA_DIR": folder / "data"}
    bindings["VOCABULARY"] = scored.MODEL
    run, *_ = gin_flags.build_run(
        (kind,),
        gin_files=[f"gin/t5/{name}.gin"],
        bindings=[f"{key} = '{value}'" for key, value in bindings.items()],
    )
    return run


def numbers(line):
    number_texts = re.findall(r"\d[\d.,]*(?:e\+\d+)?", line)
    return [float(number.rstrip(".,").replace(",", "")) for number in number_texts]


def observing(number):
    """Operations, hours and megabytes, counted by hand for so many experts."""
    rows = 1000 + 2 * 100 * 32  # forward; forward and back for gates, in batches of 32
    batch = cost.BatchShape(batch_size=1, inputs_length=256, targets_length=128)
    base = cost.forward_flops(XL, batch, t5.param_shapes(t5.T5(XL)))
    tokens = PLACES // 2 * (256 + 128)  # of places in the encoder and the decoder
    per_token = 2 * (OF_EXPERT / PLACES + WIDTH)  # adapter, and gate
    flops = number * rows * (base + tokens * per_token)
    return flops, flops / 160e12 / 3600, number * PLACES * 2 * (WIDTH + 1) * 4 / 1e6


@pytest.mark.slow
def test_observing_tells_operations_hours_and_bytes(folder):
    plan = built(observe.Observe, "observe", folder).plan()
    assert (plan["experts"], plan["observed already"]) == (NUM_EXPERTS, 0)
    assert plan["steps per expert"] == "32 forward, 100 of gates"
    flops, hours, _, megabytes = numbers(plan["cost, about"])
    expected = observing(NUM_EXPERTS)
    assert flops == pytest.approx(expected[0], rel=0.05)  # told by two digits
    assert hours == pytest.approx(expected[1], abs=0.06)
    assert megabytes == pytest.approx(expected[2], rel=0.01)


@pytest.mark.slow
def test_sixteen_experts_in_one_model_tell_operations_bytes_and_their_share(folder):
    run = built(evaluate.Evaluate, "route_tokens", folder)
    plan = run.plan()
    line = plan["tokens_by_gates_top16_reading_sub_layer"]
    number, flops, _, megabytes, *_ = numbers(line)
    assert number == 16
    places = 2 * 16 * (OF_EXPERT + PLACES * WIDTH)
    assert flops == places
    # Experts in bfloat16, gates in float32.
    size = 16 * (2 * (OF_EXPERT) + 4 * PLACES * WIDTH) / 1e6
    assert megabytes == pytest.approx(size, abs=0.06)
    assert "hours" in plan["cost, about"] or "unknown" in plan["cost, about"]
    weighs_norms = dataclasses.replace(run.strategies[-1], norms="routed")
    run = dataclasses.replace(run, strategies=("base", weighs_norms))
    line = run.plan()["tokens_by_gates_top16_norms_routed_reading_sub_layer"]
    _, flops, _, megabytes, *_ = numbers(line)
    assert flops == places + 2 * 16 * PLACES * 2 * WIDTH  # a scale, and again a gate
    size += 16 * PLACES * WIDTH * (2 + 4) / 1e6
    assert megabytes == pytest.approx(size, abs=0.06)
    infos = [manifest.read_manifest(folder / "prompt_experts" / "expert_1")] * 296
    gates = run.strategies[-1]
    assert gates.costs(XL, infos) == line  # 16 of whatever number


@pytest.mark.slow
def test_two_stages_tell_the_rows_of_the_first_and_the_bytes_of_the_second(folder):
    plan = built(evaluate.Evaluate, "route_in_stages", folder).plan()
    first = "by_mass_top{}_weighted_weighted_of_16"
    for number in (2, 4):
        stage = first.format(number)
        line = plan[f"tasks_by_first_stage_of_{stage}"]
        count, flops, _, megabytes, *_ = numbers(line)
        assert count == number
        assert flops == 2 * number * OF_EXPERT
        size = number * 2 * OF_EXPERT / 1e6  # bfloat16
        assert megabytes == pytest.approx(size, abs=0.06)
        gates = plan[f"tokens_by_gates_of_by_mass_top{number}_of_16_reading_sub_layer"]
        assert numbers(gates)[1] == flops + 2 * number * PLACES * WIDTH
    assert "16 experts and the base on 32 rows" in plan["routing"]
    assert "hours" in plan["cost, about"] or "unknown" in plan["cost, about"]
