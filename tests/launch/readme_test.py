"""The commands for many machines do what the README of launch/ says."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests import readmes

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def test_the_commands_of_the_readme_run_as_written():
    readme = readmes.blocks(ROOT / "launch" / "README.md")
    (code,) = [block.code for block in readme if "launch/gpu.sh" in block.code]
    assert {path.name for path in ROOT.glob("launch/*.sh")} - {
        *(
            "install.sh",
            "quickstart.sh",
            "study.sh",
            "merging_study.sh",
            "routers_study.sh",
            "steps.sh",
            "test.sh",
        )
    } <= set(re.findall(r"launch/([\w.]+)", code))
    folder = pathlib.Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-euc", code],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in ("CUDA_VISIBLE_DEVICES=1", "#SBATCH --array=0-7", "kind: Job"):
        assert text in done.stdout
    assert len(re.findall(r"queued-resources create", done.stdout)) == 8
    assert "SHARD=7/8" in done.stdout.splitlines()[-1]
