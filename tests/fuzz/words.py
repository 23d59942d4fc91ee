"""The format of words that are kept beside token caches."""

import pathlib
from typing import Any

from elm_jax.runs import row_words
from tests.fuzz import records
from tests.fuzz.contract import Format, guarded


def _make(folder: pathlib.Path, variant: int) -> None:
    records.make_cache(folder, variant)
    _read(folder)


def _read(folder: pathlib.Path) -> Any:
    return row_words.of(records.open_cache(folder), str(folder / "cache")).arrays()


FORMATS = {
    "kept_words": Format(
        _make, _read, guarded, {"cache/*/.*.words-*/*": ("json", "bytes")}
    ),
}
