"""A format whose reader does what no reader may: it shows that the fuzzer sees it."""

import os
import pathlib
import signal
from typing import Any

from elm_jax import errors
from tests.fuzz.contract import Format, guarded


def _make(folder: pathlib.Path, variant: int) -> None:
    (folder / "file.txt").write_text(f"whole {variant}")


def _read(folder: pathlib.Path) -> Any:
    """Fails or succeeds in the way that `ELM_FUZZ_NUMBER` says; see `campaign_test`."""
    number = os.environ.get("ELM_FUZZ_NUMBER")
    if number == "0":
        raise errors.DataError("refused")
    if number == "1":
        raise KeyError("text")
    if number == "2":
        return len(bytearray(3 << 30))
    if number == "3":
        os.kill(os.getpid(), signal.SIGSEGV)
    while number == "4":
        pass
    if number == "5":
        return "another value"
    if number == "6":
        (folder.parent / "escaped").write_text("x")
    return (folder / "file.txt").read_text().startswith("whole")


FORMAT = Format(_make, _read, guarded, {"none": ("text",)})
