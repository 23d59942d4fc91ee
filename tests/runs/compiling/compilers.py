"""The compilers of accelerators that are not here, as tests find them."""

import os
import pathlib
import platform
import sys

import pytest

from elm_jax import errors
from elm_jax.compiling import targets, topology

FOLDER = pathlib.Path(sys.prefix, "compilers")
"""What `launch/test.sh` fills: beside the environment, not within it."""


def need(monkeypatch, name):
    """Returns the target of this name, with its compiler on the path, or skips.

    With ELM_NEEDS_COMPILERS, which `.ci/run` sets, a test without the compiler for TPUs
    fails, if there is one for the machine: `launch/test.sh` should have installed it.
    """
    if FOLDER.is_dir():
        monkeypatch.syspath_prepend(FOLDER)
    target = targets.find(name)
    try:
        topology.check_installed(target)
    except errors.MissingExtraError as error:
        has_wheel = (sys.platform, platform.machine()) == ("linux", "x86_64")
        if (
            os.environ.get("ELM_NEEDS_COMPILERS")
            and target.platform == "tpu"
            and has_wheel
        ):
            pytest.fail(f"launch/test.sh did not install it: {error}")
        pytest.skip(f"{error}")
    return target
