"""elm_library: fetches experts; builds, extends, lists and asks a library."""

from elm_jax.cli import gin_flags
from elm_jax.runs import fetch, library


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(
        library.BuildLibrary,
        library.ListExperts,
        library.RetireExperts,
        library.Retrieve,
        fetch.FetchExperts,
    )


if __name__ == "__main__":
    main()
