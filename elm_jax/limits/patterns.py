"""Regular expressions from manifests, searched in a process with limits.

Python's engine tries again what it tried before: a pattern of a few characters may take
for ever on a name, and one with ranges long to compile.
"""

import functools
import re
from collections.abc import Callable, Iterable, Sequence

from elm_jax import errors
from elm_jax.limits import limited

OURS = frozenset(
    (
        # peft.expert_parts.PARTS
        *(r"_adapter/|_norm/scale$", r"_adapter/", r"_norm/scale$", r".*"),
        # What adapters are at if nothing else is said: LoRA and (IA)3.
        *(r"/(query|value)$", r"/(key|value|hidden)$"),
    )
)
"""The project's own, which take no time and are searched here."""


class PatternError(errors.ElmError):
    """A pattern is none, or takes too much.

    Attributes:
      reason: Which of the two, to be put behind `it is`.
    """

    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(
            found=f"the pattern {pattern!r:.100}, which is {reason}",
            expected="a regular expression that is soon found, or not, in a name",
            do="Write another one",
        )
        self.reason = reason


def found_in(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """Returns the names in which a regular expression is found.

    >>> sorted(found_in("_norm/scale$", ["a_norm/scale", "b/kernel"]))
    ['a_norm/scale']

    Raises:
      PatternError: It is none, or takes too much.
    """
    if pattern in OURS:
        return frozenset(filter(re.compile(pattern).search, names))
    return _found_in(pattern, tuple(names), limited.current())


@functools.lru_cache(maxsize=64)
def _found_in(
    pattern: str, names: tuple[str, ...], limits: limited.Limits
) -> frozenset[str]:
    try:
        worker = limited.worker(limits)
        (places,) = worker.map(f"{__name__}:searcher", pattern, [names])
    except limited.LimitError as error:
        raise PatternError(pattern, f"too much: {error.reason}") from error
    except limited.WorkError as error:
        reason = f"no regular expression: {error}"
        raise PatternError(pattern, reason) from error
    return frozenset(names[place] for place in places)


def searcher(pattern: str) -> Callable[[Sequence[str]], list[int]]:
    """Returns, in the process with limits, what finds a pattern in names."""
    search = re.compile(pattern).search
    return lambda names: [place for place, name in enumerate(names) if search(name)]
