"""Whether rows that choose are apart from the rows that are reported."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

from elm_jax import errors
from elm_jax.data import rendering, seqio_tasks, serving, tasks


def check_there(name: str, splits: Iterable[str]) -> None:
    """Raises ConfigError if a task lacks one of some splits."""
    task_splits = _splits(tasks.registry.task(name))
    for split in splits:
        if split not in task_splits:
            raise errors.ConfigError(
                found=f"the split {split!r} of {name}, which it does not have",
                expected=f"one of its splits: {', '.join(task_splits)}",
                do="Set search_rows.Rows.split to the one that chooses, and"
                " reported_split to the one that is reported",
            )


def check_apart(
    name: str, split: str, reported: str, options: tasks.DataOptions
) -> None:
    """Raises ConfigError if rows of a split may be among the reported ones.

    Two names may stand for the same rows, or for parts of the same rows of a source.
    Random parts by different seeds are taken for parts that share rows.

    Args:
      name: The name of a task that has both splits.
      split: Whose rows choose.
      reported: Whose rows are reported.
      options: What decides the source, and its parts.
    """
    task = tasks.registry.task(name)
    if split != reported:
        if isinstance(task, tasks.SeqioTask):
            return
        pairs = zip(
            _parts(task, split, options), _parts(task, reported, options), strict=False
        )
        if not any(_may_share(choosing_part, shown) for choosing_part, shown in pairs):
            return
    raise errors.ConfigError(
        found=f"rows of {split} of {name} that choose, which may be among those of"
        f" {reported} that are reported",
        expected="splits that share no rows: luck is chosen, too",
        do="Choose on another split, such as train; or report a sweep on the rows that"
        " choose, with cross_fit = True",
    )


def _splits(task: tasks.AnyTask) -> tuple[str, ...]:
    if isinstance(task, tasks.SeqioTask):
        return tuple(seqio_tasks.user_task(task).splits)
    return tuple(split for split in task.splits if "@" not in split)


def _parts(
    task: tasks.Task | tasks.TextTask, split: str, options: tasks.DataOptions
) -> Iterator[tuple[str, serving.Part]]:
    """Yields what a split stands for by its task, and where its rows come from."""
    protocol_split = f"{split}@{options.protocol}"
    has_protocol = bool(options.protocol) and protocol_split in task.splits
    yield "", serving.Part.parse(task.splits[protocol_split if has_protocol else split])
    with contextlib.suppress(errors.DataError):  # the rows are not here
        served = rendering.served(task, split, options)
        source_split = served.option.splits[served.part.split]
        yield served.name, dataclasses.replace(served.part, split=source_split)


def _may_share(
    choosing_part: tuple[str, serving.Part], shown_part: tuple[str, serving.Part]
) -> bool:
    (place, first), (other_place, second) = choosing_part, shown_part
    if place != other_place or first.split != second.split:
        return False
    if first.seed != second.seed:
        return True
    ends = [part.stop for part in (first, second) if part.stop is not None]
    return not ends or max(first.start, second.start) < min(ends)
