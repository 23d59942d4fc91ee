"""Flags of compiling: for an accelerator that is not here, and what is kept of it."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from elm_jax import errors
from elm_jax.runs.run import Run

_COMPILE_FOR = flags.DEFINE_string(
    "compile_for",
    None,
    "Compile the run's programs for an accelerator that need not be here, such as"
    " v5litepod-16, v5p-8, h100 or h100:8, and tell bytes and time of a step; train and"
    " write nothing. Needs no data and no base. Ends with 0 if all of it fits, else 3.",
)
_KEEP_PROGRAMS = flags.DEFINE_string(
    "keep_programs",
    None,
    "Keep compiled programs in this folder, and take those that are there. With"
    " --compile_for of a TPU: keep there what a training on it will compile, for which"
    " its data are read.",
)


def shape_type() -> type | None:
    """Returns what tells the shape of a base that is not there; None without the flag.

    With an empty name the flag is there: that is no accelerator, and no training.
    """
    if _COMPILE_FOR.value is None:
        return None
    from elm_jax.runs.compiling import compile_for

    return compile_for.MODEL_TYPE


def check_alone(other_flags: Mapping[str, bool | None]) -> None:
    """Raises ConfigError if a flag is set that `--compile_for` cannot honour.

    Args:
      other_flags: Whether each flag is set, by its name.
    """
    for name in (name for name, is_set in other_flags.items() if is_set):
        raise errors.ConfigError(
            found=f"--{name} beside --compile_for",
            expected="one of them",
            do=f"Leave --{name} out: --compile_for trains nothing, and the name of the"
            " accelerator tells how many hosts there are",
        )


def compile_and_show(run: Run, shape: Any) -> int:
    """Compiles a run for the flag's accelerator; returns the exit status to end with.

    Args:
      run: A training or an evaluation.
      shape: The base's shape, if a gin file tells it.

    Raises:
      ElmError: As `compile_for.compile_run`.
    """
    import jax

    from elm_jax.runs.compiling import compile_for, keeping

    # Shapes alone are looked at here; with a compiler for TPUs installed, JAX would ask
    # for TPUs of this machine.
    jax.config.update("jax_platforms", "cpu")
    program_folder = _KEEP_PROGRAMS.value
    outcomes = compile_for.compile_run(
        run,
        _COMPILE_FOR.value or "",
        model=shape,
        keep_in=""
        if program_folder is None
        else f"{keeping.folder_of(program_folder)}",
    )
    return compile_for.show(outcomes)


@contextlib.contextmanager
def kept_programs(*, is_dry: bool = False) -> Iterator[None]:
    """Within the context, programs are kept in the flag's folder and read from it.

    At its end, also one by a signal or an error, a line says how many were taken and
    how many compiled. Enter it when all processes of the run have met: only the first
    one writes and tells.

    Args:
      is_dry: Whether the flag is only looked at.

    Raises:
      ConfigError: The flag has no path, or a URL.
      DataError: The folder cannot be written.
    """
    if _KEEP_PROGRAMS.value is None:
        yield
        return
    from elm_jax.runs.compiling import keeping

    folder = keeping.folder_of(_KEEP_PROGRAMS.value)
    if is_dry:
        yield
        return
    with keeping.using(folder):
        yield
