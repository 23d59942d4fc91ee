"""What every run has: a work folder, checked fields, a plan, and a record of itself."""

import dataclasses
import hashlib
import pathlib
from typing import ClassVar

from elm_jax import errors, fields, paths
from elm_jax.disk import files
from elm_jax.partitioning import processes
from elm_jax.reporting import terminal
from elm_jax.training import signals

Plan = dict[str, object]


def show_size(num_bytes: int) -> str:
    """Returns a number of bytes to read.

    >>> show_size(2**20), show_size(2**30)
    ('1.00 MiB', '1.00 GiB')
    """
    if num_bytes < 2**28:
        return f"{num_bytes / 2**20:.2f} MiB"
    return f"{num_bytes / 2**30:.2f} GiB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A job that a gin file describes and a binary runs.

    Attributes:
      model_dir: The work folder; `{MODEL_DIR}` stands for it in other paths, and
        `{PACKAGE}` for where the packages `elm_jax` and `tasks` lie.
    """

    model_dir: paths.Path
    can_share_work: ClassVar[bool] = False
    """Whether several processes may do one such run together."""

    def __post_init__(self) -> None:
        fields.check(self)
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
        """Returns the absolute path that `text` means in this run.

        `{MODEL_DIR}` in it is the work folder, and `{PACKAGE}` where the packages
        `elm_jax` and `tasks` lie: the clone, or the place of the installed wheel.
        """
        return paths.absolute(paths.fill(text, self._folders))

    def place(self, text: str) -> str:
        """Returns the absolute path that `text` means; a URL and "" stay."""
        filled = paths.fill(text, self._folders)
        return filled if not filled or paths.is_url(filled) else str(self.path(text))

    def find(self, pattern: str) -> list[pathlib.Path]:
        """Returns what a path, or a shell pattern of paths, names on disk, sorted."""
        return paths.find(pattern, self._folders)

    @property
    def name(self) -> str:
        """The run's name in file names: its type, and a hash of its fields."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return f"{type(self).__name__.lower()}-{digest}"

    def show_plan(self) -> None:
        """Prints the plan as a table, for the devices that the run would have."""
        self.choose_devices()
        title, rows = f"Plan of {type(self).__name__}", self.plan().items()
        terminal.show(terminal.table(title, ("", ""), rows, show_header=False))

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
            processes.check_same(operative_config, name="configuration")
            self._check_shared()
            self.run()

    def _check_shared(self) -> None:
        """Raises ConfigError if this process does not see the first process's file."""
        if not self._config_path("operative.gin").is_file():
            raise errors.ConfigError(
                found=f"MODEL_DIR {self.path(self.model_dir)} on this host without"
                " what process 0 has just written there",
                expected="one folder that all hosts share, such as on NFS",
                do="Name a shared folder with --gin.MODEL_DIR",
            )

    def operative_config(self) -> str:
        """Returns the text of the configuration that `start` wrote, or ""."""
        path = self._config_path("operative.gin")
        return files.read_text(path) if path.is_file() else ""

    @property
    def _folders(self) -> dict[str, str]:
        package = {"{PACKAGE}": str(paths.PACKAGE)}
        model_dir = paths.absolute(paths.fill(self.model_dir, package))
        return {"{MODEL_DIR}": str(model_dir), **package}

    def _config_path(self, ending: str) -> pathlib.Path:
        return self.path(f"{{MODEL_DIR}}/config/{self.name}.{ending}")
