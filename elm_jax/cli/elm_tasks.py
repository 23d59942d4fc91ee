"""elm_tasks: shows tasks, builds their token caches, fetches prompt templates."""

from typing import TYPE_CHECKING

from elm_jax.cli import start

if TYPE_CHECKING:
    from elm_jax.runs.run import Run


def runs() -> "tuple[type[Run], ...]":
    """Returns the runs of the binary; imports what they need."""
    from elm_jax.runs import cache_tasks, tasks

    return (
        tasks.ListTasks,
        tasks.FetchTemplates,
        tasks.TrainVocabulary,
        cache_tasks.CacheTasks,
    )


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    start.main(__doc__, runs)


if __name__ == "__main__":
    main()
