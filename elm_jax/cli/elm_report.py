"""elm_report: turns result rows into tables, plots and one HTML page."""

from elm_jax.cli import gin_flags
from elm_jax.runs import report


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(report.Report)


if __name__ == "__main__":
    main()
