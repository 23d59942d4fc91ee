"""What elm_eval prints: means over prompts, with marks of what needs care."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from elm_jax.evaluation import metrics, results
from elm_jax.reporting import marks, terminal, text

_MOST_COLUMNS = 6

Rows = Sequence[results.ResultRow]


def show(rows: Rows) -> None:
    """Prints each candidate's mean over prompts by dataset, one table per split.

    Experts scored on their own tasks have a score in one column each: they are
    listed, a line for every score.
    """
    console = terminal.console()
    for split in dict.fromkeys(row.split for row in rows):
        shown = [r for r in rows if r.split == split and r.metric in metrics.MAIN_KEYS]
        cells: dict[tuple[str, str, str], list[results.ResultRow]] = {}
        for row in shown:
            cells.setdefault((row.expert, row.dataset, row.metric), []).append(row)
        by_column: dict[tuple[str, str], list[results.ResultRow]] = {}
        for row in sorted(shown, key=lambda row: (row.dataset, row.metric)):
            by_column.setdefault((row.dataset, row.metric), []).append(row)
        is_part = {
            key: len(_tasks(cell_rows)) < len(_tasks(by_column[key[1:]]))
            for key, cell_rows in cells.items()
        }
        scores = {
            key: (
                f"{sum(row.value for row in cell_rows) / len(cell_rows):.1f}",
                marks.of_scores(cell_rows) + marks.PART * is_part[key],
            )
            for key, cell_rows in cells.items()
        }
        table = Table(title=f"{split}: percent, mean over prompts")
        table.add_column("expert", no_wrap=True)
        if len(by_column) > _MOST_COLUMNS:
            for name in ("dataset", "metric", "score"):
                table.add_column(name, no_wrap=True)
            for key, (mean, letters) in scores.items():
                letters = marks.joined(letters, marks.of_data(cells[key]))
                table.add_row(*map(_plain, key), marks.beside(mean, letters))
        else:
            names = text.without_common_prefix([dataset for dataset, _ in by_column])
            for name, ((_, metric), column_rows) in zip(
                names, by_column.items(), strict=True
            ):
                title = marks.beside(f"{name} {metric}", marks.of_data(column_rows))
                table.add_column(_plain(title))
            for expert in dict.fromkeys(row.expert for row in shown):
                row_cells = [
                    scores.get((expert, *column), ("", "")) for column in by_column
                ]
                table.add_row(
                    _plain(expert), *(marks.beside(*cell) for cell in row_cells)
                )
        console.print(table)
        for line in marks.legend(shown):
            console.print(_plain(line))
        if any(is_part.values()):
            console.print(_plain(marks.PART_LEGEND))


def _tasks(rows: Rows) -> set[str]:
    return {row.task for row in rows}


def _plain(name: str) -> Text:
    """Returns text that is never read as markup."""
    return Text(text.plain(name))
