"""Shard i of n of a list of experts, for many machines that share one list.

Who gets what depends on the names alone: not on what is finished, on the machine or
on the order in which anybody starts. Schedulers may therefore start, kill and repeat
shards as they like.
"""

import dataclasses
import pathlib
import re
import tempfile
from collections.abc import Iterable

from elm_jax import errors
from elm_jax.disk import locks

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


def check_file(shard: Shard, path: pathlib.Path, *, do: str = "") -> None:
    """Raises ConfigError if shards would append to one file without locks.

    On such a file system, two that write at once would lose or mix rows. A file with
    the shard in its name, such as `results_0_of_4.jsonl`, is a file of its own.

    Args:
      shard: The shard of this process.
      path: The file to which it adds.
      do: What to do about a file that cannot be one for each shard.
    """
    shard_name = f"{shard.index}_of_{shard.count}"
    names_shard = re.search(rf"(?<!\d){shard_name}(?!\d)", path.name) is not None
    if shard.count == 1 or names_shard or _has_locks(path.parent):
        return
    raise errors.ConfigError(
        found=f"shards that add to {path}, whose file system has no locks",
        expected="locks, or a file for each shard",
        do=do
        or f"Name each shard's own file, as results_path = '{path.stem}_{shard_name}"
        f"{path.suffix}' in this folder, and join them with `cat` when all are done",
    )


def _has_locks(folder: pathlib.Path) -> bool:
    while not folder.is_dir():  # of a result file that nobody has begun
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return locks.try_take(file.fileno())
    except NotImplementedError:
        return False
    except OSError:  # what cannot be written is told when it is
        return True
