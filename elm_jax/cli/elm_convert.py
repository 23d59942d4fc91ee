"""elm_convert: imports weights of other programs, and exports to them."""

from elm_jax.cli import gin_flags
from elm_jax.runs import convert, export


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(
        convert.ImportT5X,
        convert.ImportHuggingFace,
        export.ExportHuggingFace,
        export.ExportT5X,
    )


if __name__ == "__main__":
    main()
