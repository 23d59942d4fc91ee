"""Runs and shapes as gin files tell them, for programs that nobody runs."""

from elm_jax.cli import gin_flags
from elm_jax.runs.compiling import compile_for

SMALL = "gin/parts/models/t5_1_1_small.gin"


def build(run_type, *files, bindings=()):
    """Returns a run, and the shape that its gin files tell."""
    run, *_ = gin_flags.build_run(
        [run_type],
        gin_files=files,
        bindings=["MODEL_DIR = 'nowhere'", *bindings],
        also=compile_for.MODEL_TYPE,
    )
    return run, gin_flags.configured(compile_for.MODEL_TYPE)
