"""Retrievals of evaluations as they were up to release 0.1: runs of their own.

They have tasks, data and a work folder, which may be others than the evaluation's.
"""

from collections.abc import Sequence

from elm_jax import errors
from elm_jax.data import tasks as task_registry
from elm_jax.runs import library, queries, task_data
from elm_jax.runs.run import Run

_DO = "Set retrieval = @queries.Queries(), which has the evaluation's"


def asker(retrieval: queries.Queries, run: Run) -> Run:
    """Returns the run to whose work folder the paths of a retrieval are relative."""
    return retrieval if isinstance(retrieval, Run) else run


def check_data(retrieval: queries.Queries | None, data: task_data.TaskData) -> None:
    """Raises ConfigError if a retrieval has other data than the evaluation."""
    if isinstance(retrieval, library.Retrieve) and retrieval.data != data:
        raise errors.ConfigError(
            found=f"a retrieval with {retrieval.data}",
            expected=f"the data of the evaluation: {data}",
            do=_DO,
        )


def check_tasks(retrieval: queries.Queries, names: Sequence[str]) -> None:
    """Raises ConfigError if a retrieval is for other tasks than the evaluation."""
    if not isinstance(retrieval, library.Retrieve):
        return
    its_tasks = task_registry.registry.expand(retrieval.tasks)
    if sorted(its_tasks) != sorted(names):
        raise errors.ConfigError(
            found=f"retrieval for {len(its_tasks)} tasks: {', '.join(its_tasks)}"[:300],
            expected=f"the {len(names)} tasks of the evaluation",
            do=_DO,
        )
