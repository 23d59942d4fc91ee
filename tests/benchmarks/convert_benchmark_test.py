"""The benchmark of conversions runs, and small models stay within its bound too."""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

FILE = pathlib.Path(__file__).with_name("convert_benchmark.py")


def test_an_import_stays_within_the_bound_on_memory():
    run = subprocess.run(
        [sys.executable, str(FILE), "--tiny"],
        check=True,
        capture_output=True,
        text=True,
        cwd=FILE.parents[2],
    )
    row = json.loads(run.stdout.splitlines()[-1])
    assert row["benchmark"] == "convert"
    assert row["peak_bytes"] < row["bound_bytes"]
    assert "convert: " in run.stderr
    assert "MB/s" in run.stderr
