"""Flags and gin: from a command line to a built run; the only file that imports gin.

A run is a frozen dataclass in `elm_jax.runs`. Gin files name it by dynamic
registration, so nothing in the library is decorated. After gin has built the run,
each binding that nothing read is an error: gin itself forgives misspelt names.
"""

import ast
import contextlib
import importlib.machinery
import importlib.util
import logging
import os
import pathlib
import re
import resource
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import gin
from absl import flags
from gin import config as gin_config

from elm_jax import __version__, errors, paths
from elm_jax.cli import compile_flag, gin_errors, gin_parts, help_text, selectors
from elm_jax.runs import hosts, reading
from elm_jax.runs.run import Run

_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "A gin file, by path or by name such as gin/pocket/base.gin."
)
_GIN_BINDINGS = flags.DEFINE_multi_string(
    "gin_bindings", [], "One gin binding; --gin.NAME=value is its short form."
)
_GIN_SEARCH_PATHS = flags.DEFINE_list(
    "gin_search_paths", [], "Folders in which gin files are looked up, first wins."
)
_HELP = flags.DEFINE_bool(
    "help", False, "Show this; with --gin_file the values that it gives."
)
_VERSION = flags.DEFINE_bool("version", False, "Print the version of elm_jax.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the resolved plan; compile, train and write nothing."
)
_MULTIPROCESS = flags.DEFINE_bool(
    "multiprocess",
    None,
    "Join the other processes of this run; where they are is told by the flags below,"
    " or by SLURM, Kubernetes or a TPU. --nomultiprocess: work alone.",
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", "", "host:port of process 0, the same in every process."
)
_PROCESS_COUNT = flags.DEFINE_integer(
    "process_count", 0, "How many processes there are.", lower_bound=0
)
_PROCESS_INDEX = flags.DEFINE_integer(
    "process_index", -1, "Which one this is, from 0.", lower_bound=-1
)
_HEARTBEAT_SECS = flags.DEFINE_integer(
    "heartbeat_secs",
    100,
    "Silence in seconds after which a process counts as dead and all others end.",
    lower_bound=1,
)

_MOST_OPEN_FILES = 65_536


def rewrite_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with each `--gin.NAME=value` as a gin binding.

    A value that is no Python literal, macro or reference is taken as a string, so
    that paths need no quotes inside the shell's.

    >>> rewrite_arguments(["--gin.MODEL_DIR=/tmp/x", "--gin.TRAIN_STEPS=3"])
    ["--gin_bindings=MODEL_DIR = '/tmp/x'", '--gin_bindings=TRAIN_STEPS = 3']
    """
    rewritten = []
    for argument in arguments:
        match = re.match(r"--?gin\.(?P<name>[^=]+)=(?P<value>.*)$", argument, re.DOTALL)
        if match is None:
            rewritten.append(argument)
            continue
        name, value = match["name"].strip(), match["value"].strip()
        if not value.startswith(("@", "%")) and not _is_literal(value):
            value = repr(value)
        rewritten.append(f"--gin_bindings={name} = {value}")
    return rewritten


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return "@" in text and text[:1] in "([{"
    return True


def build_run(
    run_types: Sequence[type[Run]],
    *,
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    show_required: bool = False,
    also: type | None = None,
    binary: str = "",
) -> tuple[Run, str, str]:
    """Returns the run that gin files and bindings describe, with its configuration.

    Args:
      run_types: The runs that the binary knows; the files must configure one of them.
      gin_files: Paths, or names below a search path or the project's own files.
      bindings: Gin statements that override the files.
      search_paths: Folders looked into before the project's own files.
      show_required: Whether a required NAME without a value gets the value `<NAME>`.
      also: A dataclass that files may configure beside the run; see `configured`.
      binary: The program's name; a message that names gin files names those of it.

    Returns:
      The run, the configuration as bound, and the operative one: everything that
      was read, defaults included.

    Raises:
      ConfigError: A file is missing or does not parse; a name is unknown, unused or
        misspelt; a value is missing or of the wrong type.
    """
    gin.clear_config()
    # gin opens files in the locale's encoding, and has no public setting for it.
    readers: Any = gin_config._FILE_READERS
    readers[:] = [(_open_utf8, os.path.isfile)]
    gin_files = [_expanded(name) for name in gin_files]
    folders = [*map(_expanded, search_paths), str(selectors.files_root())]
    for folder in folders:
        gin.add_config_file_search_path(folder)
    if not gin_files:
        raise errors.ConfigError(
            found="no --gin_file",
            expected="at least one gin file",
            do=help_text.few_files(binary),
        )
    files_found = _find_files(gin_files, ["", *folders])
    own_folders = (str(path.parent) for path in files_found)
    user_folders = list(dict.fromkeys((os.getcwd(), *own_folders)))
    _let_import(user_folders)
    logging.disable(logging.ERROR)  # gin logs each folder that lacks a file
    try:
        gin.parse_config_files_and_bindings(
            gin_files, bindings, finalize_config=not show_required
        )
        if show_required:
            for name in re.findall(r"^(\w+) = %gin.REQUIRED$", gin.config_str(), re.M):
                gin.parse_config(f"{name} = '<{name}>'")
            gin.finalize()
        _check_imports(gin.config_str(), user_folders)
        run_type = _configured_run(run_types)
        _configured_reading().use()
        run = gin.get_configurable(run_type)()
        if also is not None:
            configured(also)
    except errors.ElmError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's module raises what it likes
        text = gin_errors.explain(
            error,
            gin_files=gin_files,
            bound=gin.config_str(),
            run_types=run_types,
            folders=user_folders,
        )
        raise errors.ConfigError(text) from error
    finally:
        logging.disable(logging.NOTSET)
    bound, operative = gin.config_str(), gin.operative_config_str()
    unused = gin_parts.unused(bound, operative)
    if unused:
        replaced = _replaced_parts(gin_files, bindings)
        unused = gin_parts.not_replaced(unused, replaced, bindings)
    if unused:
        used = gin_errors.STATEMENT.findall(operative)
        built = [run_type, reading.Reading]
        text = gin_errors.explain_unused(unused, used=used, run_types=built)
        raise errors.ConfigError(text)
    return run, bound, operative


def _open_utf8(name: str) -> TextIO:
    return open(name, encoding="utf-8")


def _expanded(name: str) -> str:
    """Returns a path with `~` replaced, as the shell leaves it within a flag."""
    return str(paths.absolute(name)) if name.startswith("~") else name


def _find_files(gin_files: Sequence[str], folders: Sequence[str]) -> list[pathlib.Path]:
    """Returns where the gin files are, or raises ConfigError."""
    files_found = []
    for name in gin_files:
        places = [pathlib.Path(folder, name).absolute() for folder in folders]
        files_found += [path for path in places if path.is_file()][:1]
        if not any(path.is_file() for path in places):
            raise errors.ConfigError(
                found=f"no gin file {name!r} in {[f or '.' for f in folders]}",
                expected="a path, or a name below one of these folders",
                do=errors.did_you_mean(name, selectors.gin_files()),
            )

    return files_found


def _let_import(folders: Iterable[str]) -> None:
    """Lets gin files import modules of these folders; installed modules come first.

    The packages `elm_jax` and `tasks` stay the project's own, even if a folder has
    others of these names: the finder of an editable install comes after the whole path.
    Processes that this one starts, such as those that build caches, inherit the path.
    """
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    importlib.invalidate_caches()
    if not all(map(_is_found, gin_errors.OURS)):
        sys.path.insert(0, str(paths.PACKAGE))
        importlib.invalidate_caches()


def _is_found(name: str) -> bool:
    """Returns whether a new process with this path would find our own package."""
    # The path first: for what is imported already, `find_spec` does not look at it.
    spec = importlib.machinery.PathFinder.find_spec(name)
    spec = spec or importlib.util.find_spec(name)
    our_file = paths.PACKAGE / name / "__init__.py"
    return (
        spec is not None and spec.origin is not None and our_file.samefile(spec.origin)
    )


def _check_imports(bound: str, folders: Sequence[str]) -> None:
    """Raises ConfigError if an imported module hides a module of the user."""
    for line, name in re.findall(r"^((?:import|from) (\w+).*)$", bound, re.MULTILINE):
        if name in gin_errors.OURS and line != f"import {name}":
            continue  # ours, which most files import; a user's may exist as well
        advice = gin_errors.hidden_module(name, folders, kind="__init__.py")
        if advice:
            raise errors.ConfigError(
                found=f"`{line}`, which is not the module beside the gin file",
                expected="modules that register tasks",
                do=advice,
            )


def _configured_run(run_types: Sequence[type[Run]]) -> type[Run]:
    """Returns the one run type that the parsed files bind; parts of it do not count."""
    bound = gin.config_str()
    matches = [t for t in run_types if re.search(rf"\b{t.__name__}\.\w+ *=", bound)]
    held = {
        part for t in matches for part in selectors.with_parts([t]) if part is not t
    }
    matches = [t for t in matches if t not in held]
    names = [t.__name__ for t in run_types]
    if len(matches) != 1:
        raise errors.ConfigError(
            found=f"files that configure {[t.__name__ for t in matches] or 'no run'}",
            expected=f"exactly one of {names} for this binary",
            do="Pass a gin file of this binary; --help lists the project's",
        )
    return matches[0]


def _configured_reading() -> reading.Reading:
    """Returns how this process reads files, as the parsed files say if they do."""
    is_bound = re.search(r"\bReading\.\w+ *=", gin.config_str())
    return (gin.get_configurable(reading.Reading) if is_bound else reading.Reading)()


def configured(part: type) -> Any:
    """Returns a dataclass as the parsed files say, None if they do not."""
    is_bound = re.search(rf"\b{part.__name__}\.\w+ *=", gin.config_str())
    return gin.get_configurable(part)() if is_bound else None


def _replaced_parts(
    gin_files: Sequence[str], bindings: Sequence[str]
) -> dict[str, str]:
    """Returns the parts that flags took out of what files say, each with the flag."""
    if not bindings:
        return {}
    gin.clear_config()
    gin.parse_config_files_and_bindings(gin_files, (), finalize_config=False)
    of_files = gin.config_str()
    gin.clear_config()  # as it was, for who asks for more of it
    gin.parse_config_files_and_bindings(gin_files, bindings, finalize_config=False)
    return gin_parts.replaced(of_files, bindings)


def allow_open_files() -> None:
    """Raises this process's limit of open files as far as allowed, up to 65,536.

    Hundreds of experts each need a token cache and a lock; 1,024 is a usual limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [n for n in (hard, _MOST_OPEN_FILES) if n != resource.RLIM_INFINITY]
    if soft != resource.RLIM_INFINITY and soft < min(limits):
        with contextlib.suppress(
            ValueError, OSError
        ):  # macOS may allow less than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits), hard))


def make_help(description: str, run_types: Sequence[type[Run]]) -> str:
    """Returns what `--help` prints; with gin files the values that they give.

    Raises:
      ConfigError: As `build_run`.
    """
    if not _GIN_FILE.value:
        by_module = flags.FLAGS.flags_by_module_dict()
        our_flags = [*by_module[__name__], *by_module[compile_flag.__name__]]
        configured = [*run_types, reading.Reading]
        return help_text.make(description, configured, our_flags)
    run, _, operative = build_run(
        run_types,
        gin_files=_GIN_FILE.value,
        bindings=_GIN_BINDINGS.value,
        search_paths=_GIN_SEARCH_PATHS.value,
        show_required=True,
    )
    return help_text.make_of_run(description, run, operative)


def main(description: str, *run_types: type[Run]) -> None:
    """Runs the program of a binary: parse flags, build the run, plan or run it.

    Args:
      description: What the binary does, its name before a colon.
      *run_types: The runs it knows.

    Exits with 0 when done, 1 on an error the user can repair (its text goes to
    standard error), 3 if what was compiled for a device does not fit there, 143 or
    130 after a SIGTERM or SIGINT was answered by saving.
    """
    try:
        flags.FLAGS(rewrite_arguments(sys.argv))
    except flags.Error as error:
        sys.exit(
            errors.explain(
                found=str(error),
                expected="flags of this binary, and --gin.NAME=value",
                do="Correct the flag; --help lists them",
            )
        )
    allow_open_files()
    try:
        if _VERSION.value:
            print(f"elm_jax {__version__}")  # noqa: T201
            return
        if _HELP.value:
            print(make_help(description, run_types))  # noqa: T201
            return
        shape_type = compile_flag.shape_type()
        run, bound, operative = build_run(
            run_types,
            gin_files=_GIN_FILE.value,
            bindings=_GIN_BINDINGS.value,
            search_paths=_GIN_SEARCH_PATHS.value,
            also=shape_type,
            binary=description.partition(":")[0],
        )
        if shape_type is not None:
            beside = {"dry_run": _DRY_RUN.value, "multiprocess": _MULTIPROCESS.value}
            compile_flag.check_alone(beside)
            sys.exit(compile_flag.compile_and_show(run, configured(shape_type)))
        with (
            hosts.joined(
                run,
                multiprocess=_MULTIPROCESS.value,
                coordinator_address=_COORDINATOR_ADDRESS.value,
                process_count=_PROCESS_COUNT.value,
                process_index=_PROCESS_INDEX.value,
                heartbeat_secs=_HEARTBEAT_SECS.value,
            ),
            compile_flag.kept_programs(is_dry=_DRY_RUN.value),
        ):
            if _DRY_RUN.value:
                run.show_plan()
            else:
                run.start(config=bound, operative_config=operative)
    except errors.ElmError as error:
        notes = getattr(error, "__notes__", ())
        sys.exit("\n".join((type(error).__name__, str(error), *notes)))
