"""The folder of datasets: a missing one is reported before any other problem."""

import pathlib
from collections.abc import Iterable, Sequence

from elm_jax import errors
from elm_jax.data import rendering, tasks


def is_there(data_options: tasks.DataOptions) -> bool:
    """Returns whether there is a data folder."""
    return bool(data_options.data_dir) and pathlib.Path(data_options.data_dir).is_dir()


def lacking(
    data_options: tasks.DataOptions, names: Iterable[str], splits: Sequence[str]
) -> dict[str, str]:
    """Returns the tasks that lack a data folder, each with what is missing.

    Args:
      data_options: The run's folders and sources.
      names: Tasks.
      splits: Splits of them that are wanted; () for all.
    """
    if is_there(data_options):
        return {}
    return {
        name: why for name in names if (why := _missing(name, splits, data_options))
    }


def check(
    data_options: tasks.DataOptions, names: Iterable[str], splits: Sequence[str]
) -> None:
    """Raises ConfigError if there is no data folder and tasks need one.

    Args:
      data_options: The run's folders and sources.
      names: Tasks.
      splits: Splits of them that are wanted; () for all.
    """
    names = list(names)
    missing = lacking(data_options, names, splits)
    if not missing:
        return
    first_task = next(iter(missing))
    raise errors.ConfigError(
        found=f"no data folder {data_options.data_dir!r}, and {len(missing)} of "
        f"{len(names)} tasks are read from one, such as {first_task}"
        f" ({missing[first_task]})",
        expected="a folder that holds the datasets, as tasks/README.md lists them",
        do="Name it with --gin.DATA_DIR=PATH, or set data_dir of the task data",
    )


def _missing(name: str, splits: Sequence[str], data_options: tasks.DataOptions) -> str:
    """Returns what keeps a task from being read, "" if nothing."""
    task = tasks.registry.task(name)
    if isinstance(task, tasks.SeqioTask):
        return ""
    for split in splits or task.splits:
        if split in task.splits:
            why = rendering.missing(task, split, data_options)
            if why:
                return why
    return ""
