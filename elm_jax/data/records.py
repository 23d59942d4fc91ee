"""What a source may give: a row, a prompt, or a place where neither can be had."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Stands where a source has a record but no row to give, and says why.

    It has no place among the rows: what the dataset leaves out on purpose.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Bad:
    """Stands where a row should be and is damaged.

    Attributes:
      reason: One of few texts, to be counted by.
      detail: What is wrong with this one, and where.
    """

    reason: str
    detail: str = ""


class Prompted(NamedTuple):
    """A record that is a prompt already; it needs no template."""

    inputs: str
    targets: str
    choices: tuple[str, ...] = ()


Record = Row | Prompted | Skipped | Bad

# What code that takes a row apart raises where the row has another form.
ROW_ERRORS = (LookupError, TypeError, ValueError, AttributeError)
