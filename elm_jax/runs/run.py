"""What every run has: a work folder, checked fields, a plan, and a record of itself."""

import dataclasses
import hashlib
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

import rich
from rich.table import Table

from elm_jax import errors, files
from elm_jax.partitioning import processes
from elm_jax.training import signals

Plan = dict[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A job that a gin file describes and a binary runs.

    Attributes:
      model_dir: The work folder; see `fill` for its place in other paths.
    """

    model_dir: str
    can_share_work: ClassVar[bool] = False
    """Whether several processes may do one such run together."""

    def __post_init__(self) -> None:
        _check_field_types(self)
        self.check()

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other; touches no disk."""

    def choose_devices(self) -> None:
        """Says what counts as a device; called before JAX looks for any."""

    def plan(self) -> Plan:
        """Returns what the run would do, as names and values; compiles nothing."""
        raise NotImplementedError

    def run(self) -> None:
        """Does the job."""
        raise NotImplementedError

    def path(self, text: str) -> pathlib.Path:
        """Returns the absolute path that `text` means in this run."""
        return pathlib.Path(self.fill(text)).expanduser().absolute()

    def fill(self, text: str) -> str:
        """Returns `text` with `{MODEL_DIR}` and `{PACKAGE}` replaced by folders.

        `{PACKAGE}` is where the packages `elm_jax` and `tasks` lie: the clone, or the
        place of the installed wheel.
        """
        package = pathlib.Path(__file__).parents[2]
        return text.replace("{MODEL_DIR}", self.model_dir).replace(
            "{PACKAGE}", str(package)
        )

    @property
    def name(self) -> str:
        """The run's name in file names: its type, and a hash of its fields."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return f"{type(self).__name__.lower()}-{digest}"

    def show_plan(self) -> None:
        """Prints the plan as a table."""
        table = Table(title=f"Plan of {type(self).__name__}", show_header=False)
        for name, value in self.plan().items():
            table.add_row(name, str(value))
        rich.print(table)

    def start(self, *, config: str, operative_config: str) -> None:
        """Writes down the configuration in the work folder, then runs.

        Raises:
          ConfigError: The work folder cannot be written.
          SystemExit: SIGTERM or SIGINT ended the run.
        """
        with signals.exit_on_signal():
            if processes.is_main():
                files.write_text(self._config_path("gin"), config)
                files.write_text(self._config_path("operative.gin"), operative_config)
            processes.check_same(operative_config, what="configuration")
            self._check_shared()
            self.run()

    def _check_shared(self) -> None:
        """Raises ConfigError if this process does not see what the first one wrote."""
        if not self._config_path("operative.gin").is_file():
            raise errors.ConfigError(
                errors.explain(
                    found=f"MODEL_DIR {self.path(self.model_dir)} on this host without"
                    " what process 0 has just written there",
                    expected="one folder that all hosts share, such as on NFS",
                    do="Name a shared folder with --gin.MODEL_DIR",
                )
            )

    def operative_config(self) -> str:
        """Returns the text of the configuration that `start` wrote, or ""."""
        path = self._config_path("operative.gin")
        return path.read_text() if path.is_file() else ""

    def _config_path(self, ending: str) -> pathlib.Path:
        return self.path(f"{{MODEL_DIR}}/config/{self.name}.{ending}")


def _check_field_types(part: Any) -> None:
    """Raises ConfigError for a field of a run, or of its parts, of a wrong type."""
    hints = typing.get_type_hints(type(part))
    for field in dataclasses.fields(part):
        value, hint = getattr(part, field.name), hints[field.name]
        if not _has_type(value, hint):
            plain = isinstance(hint, type) and not typing.get_args(hint)
            raise errors.ConfigError(
                errors.explain(
                    found=f"{type(part).__name__}.{field.name} = {value!r}"
                    f" ({type(value).__name__})",
                    expected=hint.__name__ if plain else f"{hint}",
                    do="Correct the value in the gin file or flag",
                )
            )
        if dataclasses.is_dataclass(value):
            _check_field_types(value)


def _has_type(value: Any, hint: Any) -> bool:
    """Returns whether a configuration value fits a field's annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_has_type(value, choice) for choice in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(
            _has_type(item, arguments[0]) for item in value
        )
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _has_type(item, arguments[1]) for item in value.values()
        )
    if origin is not None or not isinstance(hint, type):
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
