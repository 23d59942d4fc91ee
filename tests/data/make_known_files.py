"""Writes elm_jax/data/known_files.txt: hashes of the files that the project trusts.

Run it after a change of a file below `tasks`:

    python tests/data/make_known_files.py TEMPLATES_DIR

with PromptSource 0.2.3 unpacked by `elm_tasks --gin_file=gin/original/templates.gin`.
"""

import hashlib
import pathlib
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
LIST = ROOT / "elm_jax/data/known_files.txt"


def lines_of(folder: pathlib.Path, *, root: pathlib.Path = ROOT) -> Iterator[str]:
    """Yields a line of the list for each template file and vocabulary in a folder."""
    for path in sorted([*folder.rglob("templates.yaml"), *folder.rglob("*.model")]):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        yield f"{digest}  {path.relative_to(root).as_posix()}"


def main(official: pathlib.Path) -> None:
    """Writes the list anew."""
    lines = [*lines_of(official, root=official.parent)]
    lines += lines_of(ROOT / "tasks")
    LIST.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
