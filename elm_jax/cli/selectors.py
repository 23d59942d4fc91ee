"""How gin files name the runs of a binary, their parts and the fields of both."""

import pathlib
from collections.abc import Sequence

from elm_jax import fields, paths

# `tasks` is the package of tasks.
_ALIASES = {"elm_jax.runs.tasks": "task_runs"}


def files_root() -> pathlib.Path:
    """Returns the folder that holds `gin/`: of the clone, or of the installed wheel."""
    # Beside an installed package, `gin/` would be the gin-config package.
    in_clone = (paths.PACKAGE / "gin" / "parts").is_dir()
    return paths.PACKAGE if in_clone else paths.PACKAGE / "elm_jax" / "_files"


def with_parts(types: Sequence[type]) -> list[type]:
    """Returns dataclasses and all that their fields may hold, each once."""
    parts: dict[type, None] = {}

    def visit(part: type) -> None:
        if part in parts:
            return
        parts[part] = None
        for field in fields.of(part):
            for inner in fields.parts(field.hint):
                visit(inner)

    for top in types:
        visit(top)
    return list(parts)


def of(part: type) -> str:
    """Returns the name of a dataclass in gin files, such as `train.Train`."""
    return f"{module_name(part)}.{part.__name__}"


def module_name(part: type) -> str:
    """Returns the name under which gin files import the module of a dataclass."""
    return _ALIASES.get(part.__module__, part.__module__.rpartition(".")[2])


def import_line(part: type) -> str:
    """Returns the line by which a gin file imports the module of a dataclass."""
    package, _, module = part.__module__.rpartition(".")
    alias = _ALIASES.get(part.__module__)
    return f"from {package} import {module}{f' as {alias}' if alias else ''}"


def all_fields(types: Sequence[type]) -> list[str]:
    """Returns the full names of the fields of dataclasses and of their parts."""
    return [
        f"{of(part)}.{field.name}"
        for part in with_parts(types)
        for field in fields.of(part)
    ]


def gin_files(binary: str = "") -> list[str]:
    """Returns the project's gin files whose header runs a binary; "" for all."""
    root = files_root()
    gin_paths = []
    for path in sorted(root.glob("gin/*/*.gin")):
        # Those in t5x are for T5X's own programs.
        if path.parent.name not in ("parts", "t5x"):
            header = path.read_text("utf-8")
            if f"#   {binary}" in header:
                gin_paths.append(path.relative_to(root).as_posix())
    return gin_paths
