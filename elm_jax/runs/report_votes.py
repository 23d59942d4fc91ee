"""What retrieval answered, for the tasks on which a report shows what it chose."""

import collections
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict

from elm_jax import errors, fields
from elm_jax.disk import json_files
from elm_jax.evaluation import results
from elm_jax.reporting import report


class ShownVotes(NamedTuple):
    """Votes by task, the first of each for the expert that was chosen and scored.

    Attributes:
      votes: In the order of the tasks' names.
      other_tasks: Tasks whose votes are for another expert than the scored one.
      chosen_by: The first strategy that chose the experts of `votes`, on most tasks.
    """

    votes: tuple[report.Votes, ...]
    other_tasks: tuple[str, ...]
    chosen_by: str = ""

    @property
    def winners(self) -> dict[str, str]:
        """The expert with most votes, by task."""
        return {votes.task: votes.counts[0][0] for votes in self.votes}

    @property
    def note(self) -> str:
        """Describes a strategy that chose by votes in a few words."""
        counts = sorted({sum(n for _, n in votes.counts) for votes in self.votes})
        number = " to ".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]])))
        instances = f"{number} unlabelled instances".strip()
        return f"RoE: the expert that {instances} vote for"


def read(
    path: pathlib.Path,
    rows: Sequence[results.ResultRow],
    names: Mapping[str, str],
) -> ShownVotes:
    """Returns the votes for tasks on which a strategy chose one expert.

    Args:
      path: What retrieval wrote down; there need be no such file.
      rows: What is reported, under the names that the page has.
      names: Each expert's name, by the fingerprint of each of its trainings.

    Raises:
      DataError: A line of the file is none of those that retrieval writes.
    """
    if not path.is_file():
        return ShownVotes((), ())
    chosen: dict[str, list[results.ResultRow]] = {}
    for row in rows:
        if row.is_choice:
            chosen.setdefault(row.task, []).append(row)
    shown, other_tasks = [], []
    num_chosen = collections.Counter[str]()
    for task, counts in sorted(_lines(path)):
        if task not in chosen or not counts:
            continue
        (winner, number), *rest = counts
        labels = [names.get(row.expert_fingerprint, winner) for row in chosen[task]]
        name = next((n for n in sorted(labels) if _is_one_of(n, winner)), "")
        if name:
            shown.append(report.Votes(task, ((name, number), *rest)))
            pairs = zip(labels, chosen[task], strict=True)
            num_chosen.update({row.expert for label, row in pairs if label == name})
        else:
            other_tasks.append(task)
    first_of_most = max(
        (row.expert for row in rows if row.expert in num_chosen),
        key=num_chosen.__getitem__,
        default="",
    )
    return ShownVotes(tuple(shown), tuple(other_tasks), first_of_most)


def _is_one_of(label: str, name: str) -> bool:
    """Returns whether a label is a name, or the name with a suffix in parentheses."""
    return label == name or label.startswith(f"{name} (")


class _Line(TypedDict):
    task: str
    votes: tuple[tuple[str, fields.Count], ...]


def _lines(path: pathlib.Path) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    def problem(line: object) -> str:
        return "; ".join(json_files.misfits(line, _Line))

    try:
        for _, line in json_files.lines(path, problem):
            yield line["task"], [(name, number) for name, number in line["votes"]]
    except (OSError, ValueError) as error:
        raise errors.DataError(
            found=f"{path}: {error}",
            expected="lines of a task's name and its votes, as elm_library writes them",
            do="Remove the file and run elm_library's retrieval again",
        ) from error
