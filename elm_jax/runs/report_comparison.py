"""The page of experts that were compared before merging, beside a report."""

import dataclasses
import pathlib

from elm_jax.disk import json_files
from elm_jax.reporting import report

PAGE = "experts.html"
"""Where `compare.Compare` writes it, beside the report's page."""


def linked(shown: report.Report, report_path: pathlib.Path) -> report.Report:
    """Returns a report that leads to the page, if there is one with its numbers.

    Args:
      shown: The report.
      report_path: Where its page goes.
    """
    page = report_path.with_name(PAGE)
    try:
        experts = json_files.read_object(page.with_suffix(".json"))["experts"]
        is_there = page.is_file() and isinstance(experts, list)
    except (OSError, ValueError, KeyError):
        is_there, experts = False, []
    if not is_there:
        return shown
    what = f"what {len(experts)} experts change, compared before merging, is in {PAGE}"
    return dataclasses.replace(
        shown,
        details=(*shown.details, ("compared experts", what)),
        links={**shown.links, "compared experts": PAGE},
    )
