"""All formats by name; their shares stand in `names`."""

import os

from tests.fuzz import (
    broken,
    buckets,
    foreign,
    records,
    rows,
    t5x_files,
    tables,
    torch_files,
    weights,
    words,
)
from tests.fuzz.contract import Format

FORMATS: dict[str, Format] = {
    **foreign.FORMATS,
    **rows.FORMATS,
    **records.FORMATS,
    **weights.FORMATS,
    **tables.FORMATS,
    **t5x_files.FORMATS,
    **buckets.FORMATS,
    **torch_files.FORMATS,
    **words.FORMATS,
}
if os.environ.get("ELM_FUZZ_BROKEN"):
    FORMATS["broken"] = broken.FORMAT
