"""`--compile_for` of the programs, as users start them, with a real compiler."""

import os
import re
import subprocess
import sys

import pytest

from elm_jax.cli import selectors
from tests.runs.compiling import compilers

pytestmark = pytest.mark.slow

TINY = {
    **{"vocab_size": 512, "emb_dim": 128, "num_heads": 2, "head_dim": 64},
    **{"mlp_dim": 256, "num_encoder_layers": 1, "num_decoder_layers": 1},
}
LENGTHS = "{'inputs': 32, 'targets': 16}"
GIB = r"\d+\.\d\d GiB"


def compile_for(name, binary, gin_file, folder, **bindings):
    """Returns status, lines and errors of a program in an empty folder."""
    values = {f"config.T5Config.{field}": size for field, size in TINY.items()}
    values |= {"MODEL_DIR": folder, "TASK_FEATURE_LENGTHS": LENGTHS, **bindings}
    files = (gin_file, "gin/parts/models/t5_1_1_small.gin")
    search_path = f"{selectors.files_root()}{os.pathsep}{compilers.FOLDER}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"elm_jax.cli.{binary}"),
            *(f"--gin_file={file}" for file in files),
            *(f"--gin.{setting}={value}" for setting, value in values.items()),
            f"--compile_for={name}",
        ],
        capture_output=True,
        check=False,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search_path},
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("name", ["v5litepod-1", "h100"])
@pytest.mark.parametrize(
    ("binary", "gin_file", "kinds"),
    [
        ("elm_train", "gin/t5/prompt_experts.gin", ["fleet step"]),
        ("elm_eval", "gin/t5/evaluate.gin", ["ranking", "decoding"]),
    ],
)
def test_a_run_that_fits_needs_an_empty_folder_and_leaves_it_empty(
    monkeypatch, tmp_path, name, binary, gin_file, kinds
):
    compilers.need(monkeypatch, name)
    status, lines, stderr = compile_for(name, binary, gin_file, tmp_path)
    assert status == 0, stderr
    for kind, line in zip(kinds, lines[-len(kinds) :], strict=True):
        assert re.fullmatch(
            f"{kind} fits on {name}: {GIB} by plan, {GIB} by compiler,"
            f" of {GIB} per device",
            line,
        )
    assert "TPU" not in stderr  # nothing looked for devices of this machine
    assert not [*tmp_path.iterdir()]


def test_a_batch_that_does_not_fit_ends_with_3_and_a_smaller_one_is_named(
    monkeypatch, tmp_path
):
    compilers.need(monkeypatch, "v5litepod-1")
    status, lines, stderr = compile_for(
        *("v5litepod-1", "elm_train", "gin/t5/prompt_experts.gin", tmp_path),
        # So little memory, because large batches take compilers minutes.
        **{"BATCH_SIZE": 8192, "options.Fleet.device_memory_gib": 0.04},
    )
    assert status == 3, stderr
    assert re.fullmatch(
        f"fleet step does not fit on v5litepod-1: refused by plan, not compiled"
        f" by compiler, of {GIB} per device",
        lines[-1],
    )
    advice = [line for line in lines if "would fit" in line]
    assert any(re.search(f"a batch_size of \\d+: {GIB} by plan", a) for a in advice)
    assert not [*tmp_path.iterdir()]
