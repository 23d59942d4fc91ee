"""The accelerator benchmark in its tiny mode: form, laws, and failures."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

FILE = pathlib.Path(__file__).with_name("accelerator_benchmark.py")
NEEDS = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
COMPILED = ("dataset_step", "fleet_8", "rank_classification")

# Refuses to import what the distributions of argument 1 do not bring.
BLOCKER = """
import json, runpy, sys
refused = set(json.loads(sys.argv.pop(1)))
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"refused: {name}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def brought_along(names):
    """Returns the distributions that come with some, themselves included."""
    distributions, todo = set(), [Requirement(name) for name in names]
    while todo:
        requirement = todo.pop()
        key = (requirement.name.lower().replace("_", "-"), *sorted(requirement.extras))
        if key in distributions:
            continue
        distributions.add(key)
        try:
            lines = importlib.metadata.requires(requirement.name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system
        for line in map(Requirement, lines):
            extras = ("", *requirement.extras)
            if line.marker is None or any(
                line.marker.evaluate({"extra": extra}) for extra in extras
            ):
                todo.append(line)
    return {name for name, *_ in distributions}


def refused_modules():
    """Returns the top-level modules installed here that the benchmark must not need."""
    allowed = brought_along(NEEDS)
    owners = importlib.metadata.packages_distributions()
    return sorted(
        module
        for module, dists in owners.items()
        if not {dist.lower().replace("_", "-") for dist in dists} & allowed
        and module not in (*sys.stdlib_module_names, "elm_jax")
    )


def run_benchmark(*flags, program=(str(FILE),)):
    # Compiling is nearly all of the time, and the speed of what comes out no matter.
    lazy = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    env = {**os.environ, "PYTHONPATH": "", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": lazy}
    command = [sys.executable, *program, "--tiny", "--steps", "3", *flags]
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    return run, [json.loads(line) for line in run.stdout.splitlines()]


def test_much_is_refused_to_the_benchmark():
    refused = set(refused_modules())
    assert {"seqio", "tensorflow", "sentencepiece", "gin", "jinja2"} <= refused
    assert not {"jax", "numpy", "tensorstore", "rich", "elm_jax"} & refused


@pytest.mark.slow
def test_cases_run_with_few_packages_and_keep_their_laws():
    program = ("-c", BLOCKER, json.dumps(refused_modules()), str(FILE))
    flags = ("--here", "--matmul_tflops", "1000", "--cases", "matmul", *COMPILED)
    run, (matmul, *rows) = run_benchmark(*flags, program=program)
    assert run.returncode == 0, run.stderr
    assert matmul["matmul_tflops"] == max(matmul["tflops_by_size"].values()) > 0
    assert [row["case"] for row in rows] == list(COMPILED)
    for row in rows:
        assert row["status"] == "ok"
        assert row["dtype"] == "bfloat16"
        assert 0 < row["utilization"] < 1.1
        assert 0 < row["model_flops"] <= row["hardware_flops"]
        assert row["step_secs_p10"] <= row["step_secs"] <= row["step_secs_p90"]
        assert 0 < row["step_secs"] < row["first_call_secs"]
        assert row["num_steps"] == 3
        assert row["batch_size"] == 8
        assert 0 < row["estimated_bytes"] < row["peak_bytes"]
        assert row["versions"]["jax"] == importlib.metadata.version("jax")
        assert 2 < row["loss"] < 8  # random weights over 64 tokens: about log 64
    by_case = {row["case"]: row for row in rows}
    assert by_case["fleet_8"]["num_experts"] == 8
    assert by_case["fleet_8"]["num_trained"] < by_case["dataset_step"]["num_trained"]


@pytest.mark.slow
def test_a_failing_case_is_told_and_the_others_go_on(tmp_path):
    cases = ("nonsense", "rank_classification")
    run, rows = run_benchmark("--out", str(tmp_path), "--cases", *cases)
    assert run.returncode == 1
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert "no case 'nonsense'" in rows[1]["error"]
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == rows
    assert rows[2]["matmul_tflops"] == rows[0]["matmul_tflops"]
    assert 0 < rows[2]["utilization"] < 1.1


def test_what_no_time_is_left_for_is_told():
    run, rows = run_benchmark("--limit_secs", "1", "--cases", "rank_classification")
    assert run.returncode == 3
    assert [row["status"] for row in rows] == ["skipped", "skipped"]
    assert "time" in rows[1]["reason"]
