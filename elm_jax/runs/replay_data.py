"""Published numbers as data: tables of cells with their source, and how to get them."""

import pathlib
from typing import Any, Literal, NotRequired, TypedDict

from elm_jax import errors
from elm_jax.disk import json_files

MEAN = "mean"
"""The column of the mean over datasets."""


class Column(TypedDict):
    """A dataset of a table: its name in result rows, its label, its published rows."""

    name: str
    label: str
    rows: int


class Row(TypedDict):
    """Published numbers of one model or method.

    Fields:
      name: The row's name, which no other row has.
      label: What it is.
      ours: The name in result rows of what is held against it, or of a report's view.
      minus: The row whose result is subtracted, in tables of gains.
      source: Where the numbers were read.
      status: How certain they are.
      cells: Numbers by dataset, and of the mean; those not known are left out.
      notes: What to know of a cell, by its column; "" of all.
      needs: What ours cannot be scored without; names in `Published.needs`.
      commands: How it is scored; names in `Published.commands`.
      flops: Operations that this takes, about.
    """

    name: str
    label: str
    ours: str
    minus: NotRequired[str]
    source: str
    status: str
    cells: dict[str, float]
    notes: dict[str, str]
    needs: tuple[str, ...]
    commands: tuple[str, ...]
    flops: float


class Table(TypedDict):
    """Rows of the same columns.

    Fields:
      name: The table's name.
      title: What it shows.
      kind: `scores`; `ranks` of a strategy's choices among all experts, by prompt; or
        `gains`, differences of two rows' means.
      tasks: The mixture that it is about.
      metric: The metric of its numbers.
      split: The split whose rows were scored.
      columns: Its datasets; of gains there are none.
      rows: The table's rows.
    """

    name: str
    title: str
    kind: Literal["scores", "ranks", "gains"]
    tasks: str
    metric: str
    split: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


class Published(TypedDict):
    """Tables; what is needed, and commands, by names that rows use."""

    tables: tuple[Table, ...]
    needs: dict[str, str]
    commands: dict[str, str]


def read(path: pathlib.Path) -> Published:
    """Returns published tables.

    Raises:
      DataError: The file cannot be read, or says what no table can.
    """
    content: Any = None
    try:
        content = json_files.read_object(path)
        wrong = json_files.misfits(content, Published) or _misfits(content)
    except (OSError, ValueError) as error:
        wrong = [errors.first_line(error)]
    if wrong:
        raise errors.DataError(
            found=f"{path}: {'; '.join(wrong[:5])}",
            expected="tables as in tasks/tables/published.json",
            do="Correct the file, or name another as published_path",
        )
    return content


def _misfits(content: Published) -> list[str]:
    """Returns what names of a file do not fit each other."""
    tables = content["tables"]
    rows = [row for table in tables for row in table["rows"]]
    names = [row["name"] for row in rows]
    wrong = [
        f"two rows {n!r}" for n in sorted({n for n in names if names.count(n) > 1})
    ]
    for table in tables:
        columns = {column["name"] for column in table["columns"]} | {MEAN}
        for row in table["rows"]:
            odd = [
                *(row["cells"].keys() - columns),
                *(row["notes"].keys() - columns - {""}),
            ]
            odd += [*(set(row["needs"]) - content["needs"].keys())]
            odd += [*(set(row["commands"]) - content["commands"].keys())]
            minus = row.get("minus")
            odd += [minus] if minus is not None and minus not in names else []
            wrong += [f"row {row['name']!r} with {', '.join(map(repr, odd))}"] * bool(
                odd
            )
            if (table["kind"] == "gains") != (minus is not None):
                wrong.append(f"row {row['name']!r}: minus is for gains, and only there")
    return wrong
