"""The benchmark of reports runs on a small store, whose files it counts."""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def test_a_small_store_is_built_opened_and_reported(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.report_benchmark"]
    command += ["--num_experts=4", "--num_rows=12", "--prompts=2,1"]
    done = subprocess.run(
        [*command, f"--folder={tmp_path}"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    row = json.loads(done.stdout)
    assert (row["experts"], row["prompts"]) == (4, 3)
    assert row["open_result_rows"] == (4 + 3) * 3 * 3  # with base, multitask, retrieved
    assert row["store_files"] == 2
    assert row["open_peak_mib"] > 0
    assert row["report_cpu_seconds"] > 0
    assert row["report_page_bytes"] > 1000
    assert "best_single_crossfit" in (tmp_path / "report/tables.md").read_text()
