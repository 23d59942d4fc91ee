"""Fields of runs that have moved into parts of them: old names are still read.

A gin file or a flag may say `train.Train.num_fsdp = 4` as it did when the run had this
field itself. The run is then built as if `placement.Placement.num_fsdp` had been said,
and standard error tells the new name, once.
"""

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from elm_jax import errors, fields

_Run = TypeVar("_Run")


def takes_old_names(
    moved: Mapping[str, str],
    *,
    by_name: Callable[[str], Any] | None = None,
    silent: Mapping[str, Any] = types.MappingProxyType({}),
) -> Callable[[type[_Run]], type[_Run]]:
    """Returns a decorator of a dataclass whose fields have moved into its parts.

    A value under an old name replaces that of the part: files of the project use the
    new names, and a user's flag or file with an old one is meant to change them.

    Args:
      moved: By each old name, the part's field and the name in it, `part.name`.
      by_name: Makes a part of its name, where a run's field may hold one.
      silent: By old name, the value that asked for nothing: it is left out.
    """

    def decorate(run_type: type[_Run]) -> type[_Run]:
        build: Callable[..., None] = run_type.__init__

        def __init__(self: _Run, **values: Any) -> None:  # noqa: N807
            meant = {
                name: value
                for name, value in values.items()
                if name not in silent or value != silent[name]
            }
            build(self, **_with_new_names(run_type, meant, moved, by_name))

        # Gin takes a name only if the signature has it.
        signature = inspect.signature(build)
        old = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in moved]
        together = [*signature.parameters.values(), *old]
        __init__.__signature__ = signature.replace(parameters=together)
        __init__.__doc__ = build.__doc__
        run_type.__init__ = __init__
        return run_type

    return decorate


def _with_new_names(
    run_type: Any,
    values: Mapping[str, Any],
    moved: Mapping[str, str],
    by_name: Callable[[str], Any] | None,
) -> dict[str, Any]:
    """Returns arguments of a run in which parts hold what old names say."""
    changes: dict[str, dict[str, Any]] = {}
    for old in values.keys() & moved.keys():
        part, _, name = moved[old].partition(".")
        changes.setdefault(part, {})[name] = values[old]
    result = {name: value for name, value in values.items() if name not in moved}
    defaults = {field.name: field.default for field in fields.of(run_type)}
    for part, changed in changes.items():
        held = result.get(part, defaults[part])
        if by_name is not None and isinstance(held, str):
            held = by_name(held)
        part_fields = [field.name for field in dataclasses.fields(held)]
        for name, value in changed.items():
            if name not in part_fields:
                raise errors.ConfigError(
                    found=f"{name} = {value} for {held}",
                    expected=f"one of {', '.join(part_fields) or 'no options'}",
                    do=f"Leave {name} out, or take another {part}",
                )
        result[part] = dataclasses.replace(held, **changed)
    for old, new in moved.items():
        if old in values:
            part, _, name = new.partition(".")
            _tell(_gin_name(run_type), old, _gin_name(type(result[part])), part, name)
    return result


@functools.cache
def _tell(run_name: str, old: str, part_name: str, part: str, new: str) -> None:
    """Says where a field is now, the first time that it is asked for."""
    text = (
        f"{run_name}.{old} is now {part_name}.{new} (with {run_name}.{part} ="
        f" @{part_name}()); the old name is still read"
    )
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _gin_name(part: type) -> str:
    return f"{part.__module__.rpartition('.')[2]}.{part.__name__}"
