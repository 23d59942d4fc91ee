"""Tables of a report as CSV, for programs of tables and for pandas."""

import csv
import io
import re
from collections.abc import Sequence

from elm_jax.reporting import report, text

# A cell that begins so is a formula to programs of tables, whoever wrote it.
_FORMULA = re.compile(r"[=+\-@\t\r]")


def heat_map(shown: report.HeatMap) -> str:
    """Returns a map, a line for each expert and what stands beside experts.

    Columns are the mean over all, and the prompts as `dataset: prompt`. Numbers are
    whole; where there is none, the cell is empty.
    """
    rows: list[tuple[str, Sequence[float | None]]] = []
    if any(value is not None for value in shown.baseline):
        rows.append(("base", shown.baseline))
    rows += [(reference.label, reference.values) for reference in shown.references]
    rows += zip(shown.experts, shown.values, strict=True)
    titles = [f"{dataset}: {prompt}" for dataset, prompt in shown.columns]
    content = io.StringIO()
    lines = csv.writer(content)
    lines.writerow(["expert", "mean", *map(_safe, titles)])
    lines.writerows([_safe(n), shown.mean(values), *values] for n, values in rows)
    return content.getvalue()


def file_name(title: str) -> str:
    """Returns the name of a table's file.

    >>> file_name("Experts on unseen tasks: accuracy")
    'experts_on_unseen_tasks_accuracy.csv'
    """
    return f"{re.sub('[^a-z0-9]+', '_', title.lower())}.csv"


def _safe(name: str) -> str:
    plain = text.plain(name)
    return f"'{plain}" if _FORMULA.match(plain) else plain
