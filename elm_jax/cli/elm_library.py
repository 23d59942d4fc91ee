"""elm_library: builds, extends, lists and asks an expert library."""

from elm_jax.cli import gin_flags
from elm_jax.runs import library


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(
        library.BuildLibrary,
        library.ListExperts,
        library.RetireExperts,
        library.Retrieve,
    )


if __name__ == "__main__":
    main()
