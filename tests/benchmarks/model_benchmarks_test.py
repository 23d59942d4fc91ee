"""The benchmarks run, and print one JSON line each."""

import json
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent


def run_tiny(name):
    run = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}_benchmark.py"), "--tiny"],
        check=True,
        capture_output=True,
        text=True,
        cwd=FOLDER.parents[1],
    )
    (line,) = run.stdout.splitlines()
    row = json.loads(line)
    assert row["benchmark"] == name
    return row


@pytest.mark.slow
def test_importing_the_model_brings_no_tensorflow():
    row = run_tiny("imports")
    assert row["num_modules"] > 10
    assert not row["has_tensorflow"]


def test_the_limited_rendering_benchmark_counts_both_processes():
    row = run_tiny("limited_rendering")
    assert row["rows"] == 600
    assert row["limited_secs"] > row["start_secs"] > 0
    assert row["ratio"] > 1


@pytest.mark.slow
def test_the_train_step_benchmark_compares_two_ways():
    row = run_tiny("train_step")
    assert row["scanned_tokens_per_sec"] > 0
    assert row["unrolled_over_scanned"] > 0


@pytest.mark.slow
def test_the_rank_classification_benchmark_compares_equal_scores():
    row = run_tiny("rank_classification")
    assert row["once_over_naive"] > 0
    assert row["largest_relative_difference"] < 1e-5


@pytest.mark.slow
def test_the_mixture_benchmark_compares_with_one_expert():
    row = run_tiny("mixture")
    assert row["one_expert_secs"] > 0
    assert {*row} >= {"1_dense", "4_dense", "4_top_2", "4_chosen_2", "wall"}


@pytest.mark.slow
def test_the_decode_benchmark_compares_equal_tokens():
    row = run_tiny("decode")
    assert row["huggingface"]  # figures, or why there are none
    for batch_size in (1, 32):
        assert row[f"batch_{batch_size}"]["cached_over_recomputed"] > 0
        assert row[f"batch_{batch_size}"]["recomputed_equal"]


@pytest.mark.slow
def test_the_fleet_benchmark_compares_three_ways():
    row = run_tiny("fleet")
    assert row["fleet_over_a_wall"] > 0
    assert row["fleet_over_b_wall"] > 0
    assert row["fleet_over_a_tokens"] > 0
    # A further expert needs its parameters and moments, its batch, and no base.
    of_expert = row["own_parameters_and_moments_bytes"]
    assert of_expert <= row["bytes_per_further_expert"] <= of_expert + 16_384
    for way in ("loop", "fleet", "processes"):
        assert 0 <= row[way]["data_wait_share"] <= 1


def test_the_racing_benchmark_loses_the_best_seldom():
    row = run_tiny("racing")
    cases = [case for case in row.values() if isinstance(case, dict)]
    assert len(cases) == 6
    assert all(case["lost"] <= 0.2 for case in cases)  # at most one race of five


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="memory is read from there"
)
def test_the_loading_benchmark_tells_what_the_host_holds_beside_the_device():
    run = subprocess.run(
        [sys.executable, str(FOLDER / "loading_benchmark.py"), "--tiny"],
        check=True,
        capture_output=True,
        text=True,
        cwd=FOLDER.parents[1],
    )
    base, training, evaluation = map(json.loads, run.stdout.splitlines())
    assert training["placed"] > evaluation["placed"] == base["copy"]
    for row in (training, evaluation):
        assert row["peak"] == row["placed"] + row["beside"]
        assert 0 < row["beside"] < base["bytes_on_disk"]
