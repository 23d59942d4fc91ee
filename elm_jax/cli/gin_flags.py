"""Flags and gin: from a command line to a built run; the only file that imports gin.

A run is a frozen dataclass in `elm_jax.runs`. Gin files name it by dynamic
registration, so nothing in the library is decorated. After gin has built the run,
each binding that nothing read is an error: gin itself forgives misspelt names.
"""

import ast
import contextlib
import logging
import pathlib
import re
import resource
import sys
import tokenize
from collections.abc import Sequence

import gin
from absl import flags

from elm_jax import errors
from elm_jax.runs import hosts
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

# What gin and the modules it imports raise for a file or value that is wrong.
_GIN_ERRORS = (
    AttributeError,
    ImportError,
    OSError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    ValueError,
)
_MOST_OPEN_FILES = 65_536
_STATEMENT = re.compile(r"^(?P<name>[\w./]+) *=", re.MULTILINE)


def files_root() -> pathlib.Path:
    """Returns the folder that holds `gin/`: of the clone, or of the installed wheel."""
    package = pathlib.Path(__file__).parents[1]
    # Beside an installed package, `gin/` would be the gin-config package.
    in_clone = (package.parent / "gin" / "parts").is_dir()
    return package.parent if in_clone else package / "_files"


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
) -> tuple[Run, str, str]:
    """Returns the run that gin files and bindings describe, with its configuration.

    Args:
      run_types: The runs that the binary knows; the files must configure one of them.
      gin_files: Paths, or names below a search path or the project's own files.
      bindings: Gin statements that override the files.
      search_paths: Folders looked into before the project's own files.

    Returns:
      The run, the configuration as bound, and the operative one: everything that
      was read, defaults included.

    Raises:
      ConfigError: A file is missing or does not parse; a name is unknown, unused or
        misspelt; a value is missing or of the wrong type.
    """
    gin.clear_config()
    folders = [*search_paths, str(files_root())]
    for folder in folders:
        gin.add_config_file_search_path(folder)
    _check_files(gin_files, ["", *folders])
    logging.disable(logging.ERROR)  # gin logs each folder that lacks a file
    try:
        gin.parse_config_files_and_bindings(gin_files, bindings)
        run_type = _configured_run(run_types)
        run = gin.get_configurable(run_type)()
    except errors.ElmError:
        raise
    except _GIN_ERRORS as error:
        raise errors.ConfigError(_explain_gin_error(error, gin_files)) from error
    finally:
        logging.disable(logging.NOTSET)
    bound, operative = gin.config_str(), gin.operative_config_str()
    _check_unused(bound, operative)
    return run, bound, operative


def _check_files(gin_files: Sequence[str], folders: Sequence[str]) -> None:
    if not gin_files:
        raise errors.ConfigError(
            errors.explain(
                found="no --gin_file",
                expected="at least one gin file",
                do=f"Pass one of: {', '.join(_known_files())}",
            )
        )
    for name in gin_files:
        if not any((pathlib.Path(folder) / name).is_file() for folder in folders):
            raise errors.ConfigError(
                errors.explain(
                    found=f"no gin file {name!r} in {[f or '.' for f in folders]}",
                    expected="a path, or a name below one of these folders",
                    do=errors.did_you_mean(name, _known_files()),
                )
            )


def _known_files() -> list[str]:
    root = files_root()
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.glob("gin/**/*.gin")
        if "parts" not in path.parts
    )


def _configured_run(run_types: Sequence[type[Run]]) -> type[Run]:
    """Returns the one run type of this binary that the parsed files bind."""
    bound = gin.config_str()
    named = [t for t in run_types if re.search(rf"\b{t.__name__}\.\w+ *=", bound)]
    names = [t.__name__ for t in run_types]
    if len(named) != 1:
        raise errors.ConfigError(
            errors.explain(
                found=f"files that configure {[t.__name__ for t in named] or 'no run'}",
                expected=f"exactly one of {names} for this binary",
                do="Pass a gin file of this binary; README lists which belongs where",
            )
        )
    return named[0]


def _check_unused(bound: str, operative: str) -> None:
    used = set(_STATEMENT.findall(operative))
    unused = [name for name in _STATEMENT.findall(bound) if name not in used]
    if unused:
        hints = " ".join(f"{n}: {errors.did_you_mean(n, used)}" for n in unused)
        raise errors.ConfigError(
            errors.explain(
                found=f"bindings that nothing reads: {', '.join(unused)}",
                expected="every binding to be used by the run",
                do=f"Correct or remove them. {hints}",
            )
        )


def _explain_gin_error(error: Exception, gin_files: Sequence[str]) -> str:
    text = str(error).strip()
    advice = "Correct the name or value in the file or in the --gin flag named above"
    bound = _STATEMENT.findall(gin.config_str())
    field = re.search(r"'?([\w.]+)'? doesn't have a parameter named '(\w+)'", text)
    part = re.search(r"No configurable matching '([\w.]+)'", text)
    macro = re.search(r"No bindings specified for '(\w+)/gin.macro'", text)
    missing = re.search(r"[Rr]equired .*?: ?(.*)", text)
    if field:
        advice = errors.did_you_mean(field[2], _field_names(field[1]))
    elif part:
        parts = {name.rpartition(".")[0] for name in bound} - {""}
        advice = errors.did_you_mean(part[1], parts)
    elif macro:
        text = f"no macro {macro[1]}"  # gin shows the whole configuration
        advice = errors.did_you_mean(macro[1], (n for n in bound if "." not in n))
    elif "Unable to parse value" in text or "Unexpected token" in text:
        advice = "Write strings in quotes, numbers and tuples as Python does"
    elif "REQUIRED" in text or missing:
        advice = "Give it a value, for example --gin.MODEL_DIR=path"
    return errors.explain(
        found=f"{text} (reading {', '.join(gin_files)})",
        expected="a configuration that gin can build",
        do=advice,
    )


def _field_names(selector: str) -> list[str]:
    """Returns the fields of a dataclass that gin knows as `module.Class`."""
    module_name, _, class_name = selector.rpartition(".")
    for name, module in list(sys.modules.items()):
        if f".{name}".endswith(f".{module_name}") and hasattr(module, class_name):
            fields = getattr(getattr(module, class_name), "__dataclass_fields__", {})
            return list(fields)
    return []


def allow_open_files() -> None:
    """Lets this process open as many files as the system lets it, up to 65,536.

    Hundreds of experts hold a token cache and a lock each; 1,024 is a usual limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    known = [n for n in (hard, _MOST_OPEN_FILES) if n != resource.RLIM_INFINITY]
    if soft != resource.RLIM_INFINITY and soft < min(known):
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(known), hard))


def main(*run_types: type[Run]) -> None:
    """Runs the program of a binary: parse flags, build the run, plan or run it.

    Exits with 0 when done, 1 on an error the user can repair (its text goes to
    standard error), 143 or 130 after a SIGTERM or SIGINT was answered by saving.
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
        run, bound, operative = build_run(
            run_types,
            gin_files=_GIN_FILE.value,
            bindings=_GIN_BINDINGS.value,
            search_paths=_GIN_SEARCH_PATHS.value,
        )
        with hosts.joined(
            run,
            multiprocess=_MULTIPROCESS.value,
            coordinator_address=_COORDINATOR_ADDRESS.value,
            process_count=_PROCESS_COUNT.value,
            process_index=_PROCESS_INDEX.value,
            heartbeat_secs=_HEARTBEAT_SECS.value,
        ):
            if _DRY_RUN.value:
                run.show_plan()
            else:
                run.start(config=bound, operative_config=operative)
    except errors.ElmError as error:
        notes = getattr(error, "__notes__", ())
        sys.exit("\n".join((type(error).__name__, str(error), *notes)))
