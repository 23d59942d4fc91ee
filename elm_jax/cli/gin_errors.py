"""Error messages for configurations that gin cannot build."""

import difflib
import pathlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Sequence

from elm_jax import errors, paths
from elm_jax.cli import selectors

STATEMENT = re.compile(r"^(?P<name>[\w./]+) *=", re.MULTILINE)
OURS = ("elm_jax", "tasks")
"""The project's packages, which no module of a user's may be named like."""

_LIBRARY = sysconfig.get_path("stdlib")
_HELP = "--help lists all fields"
_MOST_UNUSED = 3  # bindings that a message names
_DYNAMIC = "from __gin__ import dynamic_registration"


def explain(
    error: Exception,
    *,
    gin_files: Sequence[str],
    bound: str,
    run_types: Sequence[type],
    folders: Sequence[str],
) -> str:
    """Returns the message for what gin, or a module it imported, raised.

    Args:
      error: What was raised.
      gin_files: The files that were read.
      bound: All statements that gin has read.
      run_types: The runs of the binary.
      folders: Where the user's modules are looked for.
    """
    text = str(error).strip()
    macro = re.search(r"No bindings specified for '(\w+)/gin.macro'", text)
    if macro:
        text = f"no macro {macro[1]}"  # gin shows the whole configuration
    advice = _advise(error, text, bound, run_types, folders)
    activity = f"reading {', '.join(gin_files)}{_raised_at(error)}"
    return errors.explain(
        found=f"{type(error).__name__}: {text} ({activity})",
        expected="a configuration that gin can build",
        do=advice,
    )


def explain_unused(
    unused: Sequence[str], *, used: Iterable[str], run_types: Sequence[type]
) -> str:
    """Returns the message for bindings that nothing reads; names the first of them.

    Args:
      unused: Names of the bindings that nothing reads.
      used: Names of those that are read.
      run_types: The run that was built.
    """
    names = {*selectors.all_fields(run_types), *used} - {*unused}
    shown = unused[:_MOST_UNUSED]
    more = len(unused) - len(shown)
    hints = " ".join(f"{name}: {near(name, names)}" for name in shown)
    return errors.explain(
        found=f"bindings that nothing reads: {', '.join(shown)}"
        + (f" and {more} more" if more else ""),
        expected="every binding to be used by the run",
        do=f"Correct or remove them. {hints}",
    )


def near(name: str, names: Iterable[str]) -> str:
    """Returns a sentence with the full names that resemble a name in their last part.

    >>> near("batch_sise", ["train.Train.batch_size", "BATCH_SIZE", "MODEL_DIR"])
    'Did you mean: BATCH_SIZE, train.Train.batch_size?'
    """
    by_last: dict[str, set[str]] = {}
    for full in names:
        by_last.setdefault(full.rpartition(".")[2].lower(), set()).add(full)
    last = name.rpartition(".")[2].lower()
    if last in by_last:
        return f"Did you mean: {', '.join(sorted(by_last[last]))}?"
    likely = difflib.get_close_matches(last, by_last, n=3, cutoff=0.6)
    close = [full for ending in likely for full in sorted(by_last[ending])]
    if not close:
        return f"No name is like it; {_HELP}."
    return f"Did you mean: {', '.join(close[:6])}?"


def hidden_module(name: str, folders: Sequence[str], *, kind: str) -> str:
    """Returns what to do if another module hides a module of the user.

    Args:
      name: The module that was imported, or could not be.
      folders: Where the user's modules are looked for.
      kind: Pattern of the files that make a folder a module.

    Returns:
      "" if there is no such module.
    """
    top = name.partition(".")[0]
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", ()))
    user_files = [
        path
        for folder in map(pathlib.Path, folders)
        for path in (folder / f"{top}.py", folder / top)
        if path.is_file() or (path.is_dir() and any(path.glob(kind)))
    ]
    resolved = [pathlib.Path(place).resolve() for place in places]
    is_theirs = any(
        place.is_relative_to(path.resolve())
        for place in resolved
        for path in user_files
    )
    if module is None or is_theirs or not user_files:
        return ""
    places_text = ", ".join(map(str, places)) or "in the interpreter"
    other_module = f"another module of this name ({places_text})"
    if top in OURS:
        other_module = f"the project's own package {top!r}"
    hidden = f"{user_files[0]} is hidden by {other_module}"
    return f"{hidden}: give it another name, such as my_tasks"


def _advise(
    error: Exception,
    text: str,
    bound: str,
    run_types: Sequence[type],
    folders: Sequence[str],
) -> str:
    names = STATEMENT.findall(bound)
    parts = {selectors.of(part): part for part in selectors.with_parts(run_types)}
    field = re.search(r"'?([\w.]+)'? doesn't have a parameter named '(\w+)'", text)
    part = re.search(r"No configurable matching '([\w.]+)'", text)
    macro = re.search(r"^no macro (\w+)", text)
    symbol = re.search(r"'(\w+)' was not provided by an import statement", text)
    if field:
        return _nearest_field(field[2], of=field[1], types=run_types)
    if part:
        return _advise_part(part[1], parts, bound)
    if symbol:
        return _advise_import(symbol[1], parts)
    if macro:
        return errors.did_you_mean(macro[1], (n for n in names if "." not in n))
    if isinstance(error, ImportError):
        symbols = re.findall(r"'([\w.]+)'", text)
        hidden = (hidden_module(name, folders, kind="*.py") for name in symbols)
        return next(filter(None, hidden), "") or (
            f"Correct the name, or put the module into {' or '.join(folders)}"
        )
    if "Unable to parse value" in text or "Unexpected token" in text:
        return "Write strings in quotes, numbers and tuples as Python does"
    if "REQUIRED" in text or re.search(r"[Rr]equired .*?: ?(.*)", text):
        return "Give it a value, for example --gin.MODEL_DIR=path"
    return "Correct the name or value in the file or in the --gin flag named above"


def _nearest_field(name: str, *, of: str, types: Sequence[type]) -> str:
    """Returns the fields of a dataclass that resemble a name, or else all fields."""
    names = selectors.all_fields(types)
    fields = [n for n in names if f".{n.rpartition('.')[0]}".endswith(f".{of}")]
    if not fields:
        return near(name, names)
    last = [full.rpartition(".")[2] for full in fields]
    return errors.did_you_mean(name, last, shown=len(last))


def _advise_part(name: str, parts: dict[str, type], bound: str) -> str:
    """Returns what to do about a class that gin does not know."""
    if name in parts:
        line = selectors.import_line(parts[name])
        missing = [
            line_needed for line_needed in (_DYNAMIC, line) if line_needed not in bound
        ]
        if missing:
            lines = "` and `".join(missing)
            return f"Add `{lines}` before it, at the top of the gin file"
    return f"{errors.did_you_mean(name, parts, shown=len(parts))} {_HELP}"


def _advise_import(symbol: str, parts: dict[str, type]) -> str:
    """Returns which import a gin file lacks."""
    for part in parts.values():
        if selectors.module_name(part) == symbol:
            line = selectors.import_line(part)
            return f"Add the line `{line}` to the gin file, below `{_DYNAMIC}`"
    modules = sorted({selectors.module_name(part) for part in parts.values()})
    return (
        f"Import the module {symbol!r} in the gin file, or correct its name:"
        f" {errors.did_you_mean(symbol, modules, shown=len(modules))}"
    )


def _raised_at(error: Exception) -> str:
    """Returns the line of the user's module that raised the error, if one did."""
    package = paths.PACKAGE / "elm_jax"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = pathlib.PurePath(frame.filename)
        is_installed = "site-packages" in path.parts or path.is_relative_to(_LIBRARY)
        if not is_installed and path.is_absolute() and not path.is_relative_to(package):
            return f"; {frame.filename}, line {frame.lineno}"
    return ""
