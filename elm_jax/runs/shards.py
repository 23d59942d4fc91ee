"""Shard i of n of a list of experts, for many machines that share one list.

Who gets what depends on the names alone: not on what is finished, on the machine or
on the order in which anybody starts. Schedulers may therefore start, kill and repeat
shards as they like.
"""

import dataclasses
import re
from collections.abc import Iterable

from elm_jax import errors

# Numbers of machines, not of experts: more is a slip such as "0/32000".
_MOST_SHARDS = 10_000


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` parts; `index` counts from 0."""

    index: int
    count: int

    def choose(self, names: Iterable[str]) -> list[str]:
        """Returns this shard's names, sorted.

        The shards of one count share no name and have all of them together. Their
        sizes differ by one at most, and so does the work, as the experts of a run take
        the same number of steps each unless it sets others.

        >>> Shard(0, 2).choose(["c", "a", "b"]), Shard(1, 2).choose(["c", "a", "b"])
        (['a', 'c'], ['b'])
        """
        return sorted(names)[self.index :: self.count]


WHOLE = Shard(0, 1)


def parse(text: str) -> Shard:
    """Returns the shard that `"i/n"` names; "" is the whole list.

    >>> parse("0/4")
    Shard(index=0, count=4)

    Raises:
      ConfigError: The text has another form, or i is not in [0, n).
    """
    if not text:
        return WHOLE
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    shard = Shard(int(match[1]), int(match[2])) if match else Shard(0, 0)
    if not shard.index < shard.count <= _MOST_SHARDS:
        raise errors.ConfigError(
            found=f"shard = {text!r}",
            expected=f'"i/n" with 0 <= i < n <= {_MOST_SHARDS}, such as "0/4"; or'
            ' "" for everything',
            do="Correct --gin.SHARD; the first shard is 0",
        )
    return shard
