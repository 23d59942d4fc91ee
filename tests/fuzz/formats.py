"""All formats by name; their shares stand in `names`."""

import os

from tests.fuzz import broken, foreign, records, rows, weights
from tests.fuzz.contract import Format

FORMATS: dict[str, Format] = {
    **foreign.FORMATS,
    **rows.FORMATS,
    **records.FORMATS,
    **weights.FORMATS,
}
if os.environ.get("ELM_FUZZ_BROKEN"):
    FORMATS["broken"] = broken.FORMAT
