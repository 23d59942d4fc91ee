"""Numbers and names as readers see them, in every kind of report."""

import functools
import math
import os
from collections.abc import Sequence

from elm_jax.evaluation import results


def plain(name: object) -> str:
    """Returns text of one line, characters that do not print replaced by U+FFFD.

    Terminal escapes and marks that turn the writing direction do not survive.

    >>> plain("two" + chr(10) + "lines" + chr(27)) == "two lines" + chr(0xFFFD)
    True
    """
    line = " ".join(str(name).split("\n"))
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


@functools.lru_cache(maxsize=4096)  # a map has many cells, and few different ones
def number(value: float | None, *, signed: bool = False) -> str:
    """Returns a number to one decimal, with a true minus sign; a dash for none.

    >>> number(-3.14159), number(2.0, signed=True), number(None)
    ('−3.1', '+2.0', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return ("0.0" if float(text) == 0 else text).replace("-", "−")


def p_value(value: float) -> str:
    """Returns a p-value to three decimals, or the bound that it is below.

    >>> p_value(0.25), p_value(1e-9)
    ('0.250', '<0.001')
    """
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def interval(
    value: results.Interval | None, *, signed: bool = False, letters: str = ""
) -> str:
    """Returns a mean, with its interval on a second line if there is one."""
    mean = number(value and value.mean, signed=signed)
    mean = f"{mean} ({', '.join(letters)})" if letters else mean
    if value is None or math.isnan(value.low):
        return mean
    low, high = (number(end, signed=signed) for end in (value.low, value.high))
    return f"{mean}\n{low} to {high}" if signed else f"{mean}\n{low}–{high}"


def without_common_prefix(names: Sequence[str]) -> tuple[str, ...]:
    """Returns names without the words that all of them begin with.

    >>> without_common_prefix(["pocket_causes", "pocket_senses"])
    ('causes', 'senses')
    >>> without_common_prefix(["dream"])
    ('dream',)
    """
    common = os.path.commonprefix(list(names)) if len(names) > 1 else ""
    return tuple(name[common.rfind("_") + 1 :] for name in names)
