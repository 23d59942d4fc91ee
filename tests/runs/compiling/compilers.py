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

    In CI `launch/test.sh` installs the compiler for TPUs, if there is one for the
    machine: there a test without it fails.
    """
    if FOLDER.is_dir():
        monkeypatch.syspath_prepend(FOLDER)
    target = targets.find(name)
    try:
        topology.check_installed(target)
    except errors.MissingExtraError as error:
        has_wheel = (sys.platform, platform.machine()) == ("linux", "x86_64")
        if os.environ.get("CI") and target.platform == "tpu" and has_wheel:
            pytest.fail(f"launch/test.sh did not install it: {error}")
        pytest.skip(f"{error}")
    return target
