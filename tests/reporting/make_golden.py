"""Writes golden/page.html and golden/tables.md anew: run it, then look at the diff.

python tests/reporting/make_golden.py
"""

import pathlib

from elm_jax.reporting import page, tables

FOLDER = pathlib.Path(__file__).parent / "golden"

if __name__ == "__main__":
    import conftest  # found beside this file only when it runs as a script

    FOLDER.mkdir(exist_ok=True)
    report = conftest.example_report()
    (FOLDER / "page.html").write_text(page.render(report))
    (FOLDER / "tables.md").write_text(tables.markdown(report))
