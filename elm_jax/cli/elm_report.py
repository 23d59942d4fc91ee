"""elm_report: result rows as tables, plots and a page; the examples behind them."""

from typing import TYPE_CHECKING

from elm_jax.cli import start

if TYPE_CHECKING:
    from elm_jax.runs.run import Run


def runs() -> "tuple[type[Run], ...]":
    """Returns the runs of the binary; imports what they need."""
    from elm_jax.runs import export_results, replay, report, show_examples

    return (
        *(report.Report, show_examples.ShowExamples, replay.Replay),
        export_results.ExportResults,
    )


def main() -> None:
    """Runs the binary; see `gin_flags.main` for flags and exit statuses."""
    start.main(__doc__, runs)


if __name__ == "__main__":
    main()
