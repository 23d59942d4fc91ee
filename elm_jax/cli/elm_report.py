"""elm_report: result rows as tables, plots and a page; the examples behind them."""

from elm_jax.cli import gin_flags
from elm_jax.runs import report, show_examples


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    gin_flags.main(report.Report, show_examples.ShowExamples)


if __name__ == "__main__":
    main()
