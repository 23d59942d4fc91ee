"""elm_tasks: shows tasks, builds their token caches, fetches prompt templates."""

from elm_jax.cli import gin_flags
from elm_jax.runs import cache_tasks, tasks


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(
        tasks.ListTasks,
        tasks.FetchTemplates,
        tasks.TrainVocabulary,
        cache_tasks.CacheTasks,
    )


if __name__ == "__main__":
    main()
