"""Parts that a gin file puts into a run, and that a flag takes out again.

`--gin.merge.Merge.method=uniform` takes the place of `method = @ties.Ties()` in a file,
and then nobody reads the file's options of that part. They are no slip: whoever wrote
the flag meant to be rid of them.
"""

import re
import sys
from collections.abc import Mapping, Sequence

from elm_jax.cli import gin_errors

_PART = re.compile(r"[@%](?P<name>[\w/.]+)")  # with its scopes, or a macro
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")


def unused(bound: str, operative: str) -> list[str]:
    """Returns the names of bindings that nothing has read."""
    used = set(gin_errors.STATEMENT.findall(operative))
    # What a scope reads, gin tells under the scope alone, wherever it was bound.
    used |= {name.rpartition("/")[2] for name in used}
    return [name for name in gin_errors.STATEMENT.findall(bound) if name not in used]


def replaced(of_files: str, bindings: Sequence[str]) -> dict[str, str]:
    """Returns the parts that files name and that flags replace, with their fields.

    And the parts and macros that only these name, and so on.

    >>> of_files = "merge.Merge.method = @ties.Ties()"
    >>> replaced(of_files, ["merge.Merge.method = 'uniform'"])
    {'ties.Ties': 'merge.Merge.method'}

    Args:
      of_files: The configuration that the files alone make.
      bindings: The bindings of the flags.
    """
    flags = _names(bindings)
    starts = [match.start() for match in gin_errors.STATEMENT.finditer(of_files)]
    flag_of: dict[str, str] = {}
    named_parts: list[tuple[str, set[str]]] = [("", {*_parts_of("\n".join(bindings))})]
    for start, end in zip(starts, [*starts[1:], len(of_files)], strict=True):
        name, _, value = of_files[start:end].partition("=")
        parts = _parts_of(value)
        if name.strip() in flags:
            flag_of |= dict.fromkeys(parts, name.strip())
        else:
            named_parts.append((_owner(name.strip()), {*parts}))
    for part in flag_of.copy():
        _replace_parts_of(part, flag_of, named_parts)
    while still_named := {
        part for owner, parts in named_parts if owner not in flag_of for part in parts
    } & {*flag_of}:
        flag_of = {p: flag for p, flag in flag_of.items() if p not in still_named}
    return flag_of


def _replace_parts_of(
    part: str, flag_of: dict[str, str], named_parts: Sequence[tuple[str, set[str]]]
) -> None:
    """Adds to `flag_of` all that a part names, with the part's flag."""
    for owner, parts in named_parts:
        for inner in parts - {*flag_of} if owner == part else ():
            flag_of[inner] = flag_of[part]
            _replace_parts_of(inner, flag_of, named_parts)


def _parts_of(value: str) -> list[str]:
    return _PART.findall(_QUOTED.sub("", value))


def _owner(name: str) -> str:
    """Returns the part, with its scopes, that a binding is of; or the macro."""
    return name.rpartition(".")[0] or name


def not_replaced(
    unused: Sequence[str], parts: Mapping[str, str], bindings: Sequence[str]
) -> list[str]:
    """Returns bindings that nothing reads, and for which no flag is the reason.

    Bindings for which a flag is the reason are printed to standard error.

    Args:
      unused: Names of all that nothing reads.
      parts: Parts that flags replace, with the field that each was in: from `replaced`.
      bindings: Those of the flags, which themselves have to be read.
    """
    unexplained = []
    flags = _names(bindings)
    # Options without a scope are those of the part in every scope; and a part without
    # one has those of the scope that names it.
    plain = {part.rpartition("/")[2]: part for part in parts}
    for name in unused:
        owner = _owner(name)
        part = owner if owner in parts else plain.get(owner)
        part = part or plain.get(owner.rpartition("/")[2])
        if part and name not in flags:
            text = f"{name} is not used, as --gin.{parts[part]} takes {part} out"
            print(text, file=sys.stderr, flush=True)  # noqa: T201
        else:
            unexplained.append(name)
    return unexplained


def _names(bindings: Sequence[str]) -> set[str]:
    return {name for text in bindings for name in gin_errors.STATEMENT.findall(text)}
