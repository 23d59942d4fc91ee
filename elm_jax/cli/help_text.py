"""What `--help` prints: flags, runs with their fields, and the gin files that fit."""

import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from elm_jax import fields
from elm_jax.cli import selectors

_WIDTH = 88
_FEW = 6  # gin files that are shown where all would be too many


def make(
    description: str, run_types: Sequence[type], own_flags: Sequence[flags.Flag]
) -> str:
    """Returns the help of a binary.

    Args:
      description: What it does, its name before a colon.
      run_types: The runs it knows.
      own_flags: The flags of the binary.
    """
    binary = description.partition(":")[0]
    lines = [
        description,
        "",
        f"Usage: {binary} --gin_file=FILE [--gin.NAME=VALUE ...] [FLAGS]",
        f"       {binary} --help --gin_file=FILE shows the values of that file",
        "",
        "Flags:",
        *_flag_lines(own_flags),
        "",
        "Gin files (the first lines of each say what it needs and how long it takes):",
        *(f"  {name}" for name in selectors.gin_files(f"{binary} ")),
        "",
        "Every field below is set in a gin file, or by --gin.NAME=VALUE with its full"
        " name.",
        "Capital names, such as MODEL_DIR, are those that a gin file sets itself.",
    ]
    for part in selectors.with_parts(run_types):
        lines += ["", *_part_lines(part)]
    return "\n".join(lines)


def make_of_run(description: str, run: Any, operative_config: str) -> str:
    """Returns the help of a run that is configured: its fields with their values.

    Args:
      description: What the binary does.
      run: The run.
      operative_config: What gin says of it.
    """
    macros = re.findall(r"^(\w+) = (.*)$", operative_config, re.MULTILINE)
    lines = [description, "", "Names that the gin file sets:"]
    lines += [f"  --gin.{name}={value}" for name, value in macros]
    for part in _held(run):
        values = {f.name: getattr(part, f.name) for f in fields.of(type(part))}
        lines += ["", *_part_lines(type(part), values)]
    return "\n".join(lines)


def few_files(binary: str) -> str:
    """Returns which gin files may be passed: a few, those of the quickstart first.

    Args:
      binary: The program whose files are meant; "" for all.
    """
    names = selectors.gin_files(f"{binary} " if binary else "")
    names = sorted(names, key=lambda name: not name.startswith("gin/pocket/"))
    shown = "".join(f"\n  {name}" for name in names[:_FEW])
    return f"Pass one, such as{shown}\n--help lists all {len(names)}"


def _flag_lines(own_flags: Sequence[flags.Flag]) -> Iterator[str]:
    yield "  --gin.NAME=VALUE"
    yield "      Sets a name or field of the gin file; may be given several times."
    for flag in own_flags:
        yield f"  --{flag.name}{'' if flag.boolean else '=VALUE'}"
        # absl adds to flags that may be repeated that they may.
        yield from _wrapped((flag.help or "").partition(";\n")[0], 6)


def _part_lines(part: type, values: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Yields what a dataclass is, and each field: type, default or value, meaning."""
    name = selectors.of(part)
    texts = documented(part)
    yield f"{name}: {(inspect.getdoc(part) or '').splitlines()[0]}"
    yield f"  (gin files that name it have the line: {selectors.import_line(part)})"
    for field in fields.of(part):
        yield f"  {name}.{field.name}"
        yield f"      {fields.describe(field.hint)}; {_value(field, values)}"
        yield from _wrapped(texts.get(field.name, ""), 6)


def _value(field: fields.Field, values: Mapping[str, Any] | None) -> str:
    is_needed = field.default is dataclasses.MISSING
    default = "has to be given" if is_needed else f"default {_show(field.default)}"
    if values is None:
        return default
    value = values[field.name]
    if not is_needed and value == field.default:
        return f"is {_show(value)}, the default"
    return f"is {_show(value)}" + ("" if is_needed else f"; {default}")


def _show(value: Any) -> str:
    """Returns a value as gin files have it; of a dataclass the name alone."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"@{selectors.of(type(value))}()"
    return repr(value)


@functools.cache
def documented(part: type) -> Mapping[str, str]:
    """Returns what the docstrings of a dataclass and its parents say of each field."""
    meanings: dict[str, str] = {}
    for cls in reversed(part.__mro__):
        text = inspect.cleandoc(cls.__doc__ or "")
        section = re.search(
            r"^Attributes:\n((?:(?: .*)?(?:\n|$))+)", text, re.MULTILINE
        )
        for entry in re.split(r"\n(?=  \w)", section[1]) if section else []:
            name, _, meaning = entry.strip().partition(": ")
            meanings[name] = " ".join(meaning.split())
    return meanings


def _held(value: Any) -> Iterator[Any]:
    """Yields a configured dataclass and the dataclasses in its fields."""
    yield value
    for field in fields.of(type(value)):
        inner = getattr(value, field.name)
        inner_values = inner.values() if isinstance(inner, Mapping) else (inner,)
        for item in inner_values:
            if dataclasses.is_dataclass(item) and not isinstance(item, type):
                yield from _held(item)


def _wrapped(text: str, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
    )
