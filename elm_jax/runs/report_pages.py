"""Pages in folders beside a report: writes its own, removes those of earlier ones."""

import contextlib
import pathlib
import re
from collections.abc import Collection
from typing import Protocol

from elm_jax.runs import report_examples, report_routing

_HEAD_BYTES = 4096
_OURS = {
    report_examples.FOLDER: re.compile(rb"<title>[^<]*: examples</title>"),
    report_routing.FOLDER: re.compile(rb"<title>[^<]*: where its tokens went</title>"),
}
"""What the head of a page that we made has, by its folder."""


class Pages(Protocol):
    """Pages of one folder."""

    @property
    def names(self) -> Collection[str]:
        """Names of their files."""
        ...

    def write(self, report_path: pathlib.Path) -> list[pathlib.Path]:
        """Writes the pages beside a report; returns their folder, if there are any."""
        ...


def write(
    examples: Pages | None, routes: Pages | None, report_path: pathlib.Path
) -> list[pathlib.Path]:
    """Writes the pages beside a report, then removes those that it does not have.

    Files that no report made stay.

    Args:
      examples: With answers; None for none.
      routes: With where tokens went; None for none.
      report_path: The report's page.

    Returns:
      The folders with pages.

    Raises:
      DataError: A per-example file is missing or altered.
      ConfigError: A file cannot be written.
    """
    by_folder = {report_examples.FOLDER: examples, report_routing.FOLDER: routes}
    written = [
        path
        for pages in by_folder.values()
        if pages
        for path in pages.write(report_path)
    ]
    for name, pages in by_folder.items():
        _remove_others(report_path.parent / name, pages.names if pages else ())
    return written


def _remove_others(folder: pathlib.Path, names: Collection[str]) -> None:
    for path in sorted(folder.glob("*.html")):
        if path.name in names or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError):
            with path.open("rb") as file:
                head = file.read(_HEAD_BYTES)
            if _OURS[folder.name].search(head):
                path.unlink()
