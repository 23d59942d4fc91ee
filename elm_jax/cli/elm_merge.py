"""elm_merge: merges experts into one, and compares them before."""

from typing import TYPE_CHECKING

from elm_jax.cli import start

if TYPE_CHECKING:
    from elm_jax.runs.run import Run


def runs() -> "tuple[type[Run], ...]":
    """Returns the runs of the binary; imports what they need."""
    from elm_jax.runs import compare, merge, merge_stages

    return (merge.Merge, merge_stages.Stages, compare.Compare)


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    start.main(__doc__, runs)


if __name__ == "__main__":
    main()
