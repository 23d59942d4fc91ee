"""What a source yields: a row, a finished prompt, or a mark that there is no row."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Marks a record that the dataset leaves out on purpose, and says why.

    It does not count as a row: the rows are numbered without it.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Bad:
    """Marks a row that is damaged.

    Attributes:
      reason: One of a few texts, by which bad rows are counted.
      detail: What is wrong with this one, and where.
    """

    reason: str
    detail: str = ""


class Prompted(NamedTuple):
    """A record that is a finished prompt; it needs no template."""

    inputs: str
    targets: str
    choices: tuple[str, ...] = ()


Record = Row | Prompted | Skipped | Bad

# What code that reads a row raises if the row has another form.
ROW_ERRORS = (LookupError, TypeError, ValueError, AttributeError)
