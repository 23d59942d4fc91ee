"""The cases of the accelerator benchmark, not run: sizes, operations, batches."""

import dataclasses
import pathlib
import sys
import types

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.compiling import targets
from elm_jax.model import config, cost, scoring, t5
from elm_jax.runs.placement import Devices
from elm_jax.runs.training import step_cost

FOLDER = pathlib.Path(__file__).parent
SIZES = cost.BatchShape(batch_size=8, inputs_length=512, targets_length=128)


@pytest.fixture(scope="module")
def programs():
    """The benchmark's two files, which find each other beside themselves."""
    sys.path.insert(0, str(FOLDER))
    try:
        import accelerator_benchmark
        import accelerator_cases

        yield accelerator_benchmark, accelerator_cases
    finally:
        sys.path.remove(str(FOLDER))


def make_job(programs, name, *flags):
    benchmark, cases = programs
    return cases.make_job(benchmark.parse_flags(list(flags)), name)


def train_flops(job, sizes):
    return cost.train_flops(
        job.model.config, sizes, trainable=job.trainable, frozen=job.frozen
    )


def test_the_full_size_is_t5_xl_with_the_papers_adapters(programs):
    job = make_job(programs, "prompt_step")
    assert trees.count_params(job.trainable) == 25_618_432
    assert trees.count_params(job.frozen) == 2_849_757_184 - 122 * 2048
    assert (job.model.config.dtype, job.model.config.dropout_rate) == ("bfloat16", 0.1)


def test_a_fleet_of_one_costs_what_one_expert_costs(programs):
    solo, single, eight = (
        make_job(programs, name) for name in ("prompt_step", "fleet_1", "fleet_8")
    )
    assert train_flops(solo, SIZES) == train_flops(single, SIZES)
    each = dataclasses.replace(SIZES, batch_size=1)
    assert train_flops(eight, SIZES) == 8 * train_flops(solo, each)


def test_a_prompt_expert_costs_two_thirds_of_a_dataset_expert(programs):
    flags = ("--remat", "none")
    prompt = make_job(programs, "prompt_step", *flags)
    dataset = make_job(programs, "dataset_step", *flags)
    assert 0.64 < train_flops(prompt, SIZES) / train_flops(dataset, SIZES) < 0.70


def test_operations_of_scoring_are_those_that_xla_counts(programs):
    _, cases = programs
    # As in tests/model/cost_test.py: wide, and without a loop over layers.
    shape = config.T5Config(
        vocab_size=512,
        emb_dim=256,
        num_heads=3,
        head_dim=64,
        mlp_dim=640,
        num_encoder_layers=2,
        num_decoder_layers=2,
        scan_unroll=2,
    )
    sizes = cost.BatchShape(batch_size=4, inputs_length=96, targets_length=48)
    model = t5.T5(shape)
    params = t5.param_shapes(model)
    batch = (
        jax.ShapeDtypeStruct((4, 96), np.int32),
        jax.ShapeDtypeStruct((4, cases.NUM_CHOICES, 48), np.int32),
        jax.ShapeDtypeStruct((4, cases.NUM_CHOICES), bool),
    )
    lowered = scoring.make_score_fn(model).lower(params, *batch)
    counted = lowered.cost_analysis()["flops"]
    ours = cases.measure.score_flops(
        shape, sizes, params, num_choices=cases.NUM_CHOICES
    )
    assert 0.95 * counted < ours < 1.05 * counted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dataset_step", "fleet_8"])
def test_estimates_of_steps_are_what_the_planner_says(programs, name):
    _, cases = programs
    job = make_job(programs, name, "--tiny")
    each = dataclasses.replace(SIZES, batch_size=8 // job.num_experts)
    parts = step_cost.bytes_per_device(
        job.model,
        each,
        Devices(num_data=1, num_model=1, axis_rules="data"),
        tx=job.tx,
        trainable=job.trainable,
        frozen=job.frozen,
    )
    of_experts = sum(parts.values()) - parts["frozen parameters"]
    # Lanes are computed on a copy of their parameters.
    copies = parts["trained parameters"] * (job.num_experts > 1)
    expected = parts["frozen parameters"] + job.num_experts * (of_experts + copies)
    assert cases.estimate_bytes(job, SIZES) == expected


def test_the_estimate_of_ranking_is_what_the_planner_says(programs):
    _, cases = programs
    job = make_job(programs, "rank_classification")
    assert cases.estimate_bytes(job, SIZES) == trees.count_bytes(
        job.frozen
    ) + cost.ranking_bytes(job.model.config, SIZES, cases.NUM_CHOICES)


def test_what_is_aimed_at_is_said_of_the_sizes_that_it_is_for(programs):
    benchmark, cases = programs
    args = benchmark.parse_flags([])
    assert cases.aims(args, "dataset_step") == {
        "published_sequences_per_sec": 50.4,
        "aimed_sequences_per_sec": 74,
    }
    assert cases.aims(args, "prompt_step") == {"aimed_sequences_per_sec": 111}
    assert cases.aims(args, "rank_classification") == {}
    for flags in (["--tiny"], ["--inputs_length", "256"]):
        assert cases.aims(benchmark.parse_flags(flags), "dataset_step") == {}


def test_fleets_come_before_what_the_limit_of_time_may_cut_off(programs):
    benchmark, _ = programs
    cases = [case.split(",")[0] for case in benchmark.CASES]
    assert cases[:6] == [
        *("matmul", "dataset_step", "prompt_step"),
        *("fleet_8", "fleet_1", "fleet_32"),
    ]


@pytest.mark.parametrize("card", targets.CARDS)
def test_the_peak_of_a_card_is_the_one_that_the_roofline_takes(
    monkeypatch, programs, card
):
    _, cases = programs
    device = types.SimpleNamespace(device_kind=targets.CARDS[card].description)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert cases.measure.peak_tflops() == targets.CARDS[card].tflops


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dataset_step", "fleet_8", "rank_classification"])
def test_a_batch_that_cannot_fit_is_not_tried(programs, name):
    benchmark, cases = programs
    limit = cases.MEMORY_SHARE * cases.measure.memory_limit_bytes()

    def choose(batch_size):
        args = benchmark.parse_flags(["--tiny", "--batch_size", str(batch_size)])
        return cases.choose_sizes(args, cases.make_job(args, name))

    few, needed_by_few = choose(256)
    assert few.batch_size == 256
    # Each halving takes a second: it begins two or three above what fits.
    too_many = 256 * int(4 * limit / needed_by_few)
    sizes, needed = choose(too_many)
    assert sizes.batch_size < too_many
    assert 0.4 * limit < needed <= limit
    assert sizes.batch_size % 8 == 0


def test_a_flag_of_one_case_leaves_the_others_alone(programs):
    benchmark, cases = programs
    args = benchmark.parse_flags(["--tiny"])
    changed = cases.vary(args, {"dropout_rate": "0", "attention": "cudnn"})
    assert (changed.dropout_rate, changed.attention) == (0.0, "cudnn")
    assert (args.dropout_rate, args.attention) == (0.1, "einsum")
    with pytest.raises(AttributeError, match="dropuot"):
        cases.vary(args, {"dropuot": "0"})


def test_the_batch_is_halved_until_it_fits(programs):
    benchmark, _ = programs

    def run(batch_size, least=1):
        status = "ok" if batch_size <= 20 else "out_of_memory"
        return {
            "status": status,
            "batch_size": batch_size,
            "min_batch_size": least,
        }

    row = benchmark.run_until_it_fits(run, 64)
    assert (row["status"], row["batch_size"]) == ("ok", 16)
    assert row["out_of_memory_at"] == [64, 32]
    row = benchmark.run_until_it_fits(lambda n: run(n, least=32), 64)
    assert row["status"] == "failed"
    assert row["out_of_memory_at"] == [64, 32]


def test_a_fleet_is_held_against_one_expert_with_as_many_rows(programs):
    benchmark, _ = programs
    fleet = {
        "case": "fleet_8",
        "status": "ok",
        "num_experts": 8,
        "batch_size": 64,
        "step_secs": 2.0,
    }
    single = fleet | {"case": "fleet_1,batch_size=8", "num_experts": 1, "batch_size": 8}
    gain = benchmark.fleet_gain([{}, fleet, single | {"step_secs": 0.5}])
    assert (gain["num_experts"], gain["gain"]) == (8, 2.0)
    assert gain["aimed_gain"] == 1.3
    for odd in ({"batch_size": 4}, {"status": "failed"}, {"case": "prompt_step"}):
        assert benchmark.fleet_gain([fleet, single | odd]) is None
    assert benchmark.fleet_gain([fleet]) is None


def test_running_out_of_memory_is_told_from_other_errors(programs):
    _, cases = programs
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jax.jit(lambda: jax.numpy.zeros(2**47, np.int8))())
    assert cases.measure.is_out_of_memory(caught.value)
    assert not cases.measure.is_out_of_memory(ValueError("shapes do not match"))
