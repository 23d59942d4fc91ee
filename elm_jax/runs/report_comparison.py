"""The page of experts that were compared before merging, beside a report."""

import dataclasses
import pathlib

from elm_jax.disk import json_files
from elm_jax.evaluation.row_columns import RowColumns
from elm_jax.reporting import report

PAGE = "experts.html"
"""Where `compare.Compare` writes it, beside the report's page."""

_MOST_BYTES = 1 << 28
"""Of its numbers, which grow with layers and with pairs of experts: 256 MiB."""


def linked(
    shown: report.Report, report_path: pathlib.Path, rows: RowColumns
) -> report.Report:
    """Returns a report that links to the page of the same base, if there is one.

    Where there is one that cannot be linked, the report's details tell why.

    Args:
      shown: The report.
      report_path: Where its page goes.
      rows: Of one base, that the report shows.
    """
    page = report_path.with_name(PAGE)
    if not page.exists():
        return shown
    try:
        count = _count_experts(page.with_suffix(".json"), rows)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        detail, links = f"{PAGE} is not linked: {why}", {}
    else:
        detail = f"what {count} experts change, compared before merging, is in {PAGE}"
        links = {"compared experts": PAGE}
    return dataclasses.replace(
        shown,
        details=(*shown.details, ("compared experts", detail)),
        links={**shown.links, **links},
    )


def _count_experts(path: pathlib.Path, rows: RowColumns) -> int:
    """Returns how many experts were compared; raises ValueError if not of the rows."""
    content = json_files.read_object(path, most_bytes=_MOST_BYTES)
    if not isinstance(content.get("experts"), list):
        raise ValueError(f"{path.name} tells no experts")
    if "base_fingerprint" not in content:
        raise ValueError(f"{path.name} does not tell the base; compare them again")
    bases = {base for (base,) in rows.distinct("base_fingerprint")}
    if {content["base_fingerprint"]} != bases:
        raise ValueError("its experts are of another base than the rows shown here")
    return len(content["experts"])
