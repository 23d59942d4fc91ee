"""Where a report goes: what fits to the terminal, all of it to files."""

import pathlib

from elm_jax.disk import files
from elm_jax.reporting import csv_tables, page, report, tables, terminal, text


def show(whole_report: report.Report, target: pathlib.Path) -> None:
    """Prints tables and claims; of long tables, the first and last rows.

    Args:
      whole_report: The report.
      target: Its page, beside which the other rows are.
    """
    rest = f"{_tables(target)}"
    for table in tables.all_tables(whole_report):
        short = tables.shortened(table, rest=rest)
        terminal.show(tables.to_rich(short, width=terminal.console().width))
    for line in tables.claim_lines(whole_report.claims):
        terminal.show(line)


def show_gaps(gaps: tuple[str, ...]) -> None:
    """Prints what the rows lack."""
    for line in gaps:
        terminal.show(text.plain(line))


def write(whole_report: report.Report, target: pathlib.Path) -> list[pathlib.Path]:
    """Writes the page, its tables as Markdown and its maps as CSV; returns the files.

    Raises:
      ConfigError: A file cannot be written.
    """
    contents = {
        target: page.render(whole_report),
        _tables(target): tables.markdown(whole_report),
    }
    for part in whole_report.heat_maps:
        path = target.with_name(csv_tables.file_name(part.title))
        contents[path] = csv_tables.heat_map(part)
    for path, content in contents.items():
        files.write_text(path, content)
    return list(contents)


def _tables(target: pathlib.Path) -> pathlib.Path:
    return target.with_name("tables.md")
