"""elm_library: fetches experts; builds, extends, lists and asks a library."""

from typing import TYPE_CHECKING

from elm_jax.cli import start

if TYPE_CHECKING:
    from elm_jax.runs.run import Run


def runs() -> "tuple[type[Run], ...]":
    """Returns the runs of the binary; imports what they need."""
    from elm_jax.runs import (
        fetch,
        library,
        observe,
        retrieval_comparison,
        router_comparison,
    )

    return (
        library.BuildLibrary,
        library.ListExperts,
        library.RetireExperts,
        library.Retrieve,
        retrieval_comparison.CompareRetrieval,
        router_comparison.CompareRouters,
        observe.Observe,
        fetch.FetchExperts,
    )


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    start.main(__doc__, runs)


if __name__ == "__main__":
    main()
