"""Experiment trackers beside the metrics on disk: trackio, and Weights & Biases.

Their packages are extras, imported when the first metrics come. Each expert is a run of
its own. The packages' environment variables say where runs go, such as `WANDB_MODE`,
`WANDB_ENTITY` and `TRACKIO_SPACE_ID`.
"""

import contextvars
import importlib
import importlib.util
import pathlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from elm_jax import errors
from elm_jax.disk import files
from elm_jax.training import writers

_ID_FILE = "tracked_run.txt"


def _begin_trackio(**options: Any) -> Any:
    trackio = importlib.import_module("trackio")
    # Trackio ends the run that it began last in a context, and a fleet has many.
    return contextvars.copy_context().run(
        lambda: trackio.init(
            project=options["project"],
            name=f"{options['expert']} {options['run_id']}",
            group=options["expert"],
            config={"gin": options["config"]},
            resume="allow",
            embed=False,
        )
    )


def _begin_wandb(**options: Any) -> Any:
    wandb = importlib.import_module("wandb")
    return wandb.init(
        project=options["project"],
        name=options["expert"],
        id=options["run_id"],
        group=options["expert"],
        config={"gin": options["config"]},
        dir=f"{options['folder']}",
        resume="allow",
        reinit="create_new",
    )


_BEGIN: dict[str, Callable[..., Any]] = {
    "trackio": _begin_trackio,
    "wandb": _begin_wandb,
}
NAMES = tuple(_BEGIN)


def check(names: Iterable[str]) -> None:
    """Checks that trackers are known and installed, without importing them.

    Raises:
      ConfigError: There is no tracker of a name.
      MissingExtraError: Its package is not installed.
    """
    for name in names:
        if name not in _BEGIN:
            raise errors.ConfigError(
                found=f"tracker {name!r}",
                expected=f"one of {', '.join(NAMES)}",
                do="Correct options.Metrics.trackers",
            )
        if importlib.util.find_spec(name) is None:
            raise errors.MissingExtraError(
                found=f"tracker {name!r}, whose package is not installed",
                expected=f"the extra elm_jax[{name}]",
                do=f"Install it (pip install {name}), or leave the tracker out",
            )


class TrackerWriter:
    """Sends scalars to a tracker; an expert is one run there, also after a restart.

    A training that goes on from a saved state computes some steps again. Those that
    were sent before are not sent twice.

    Args:
      tracker: One of `NAMES`.
      folder: Of the expert's work files; a file in it keeps the run's id.
      expert: The expert's name.
      project: Of the tracker.
      start_step: Of the state that the training goes on from.
      sent_step: The last step whose metrics are on disk.
      config: Text of the configuration.
    """

    def __init__(
        self,
        tracker: str,
        folder: pathlib.Path,
        *,
        expert: str,
        project: str,
        start_step: int = 0,
        sent_step: int = 0,
        config: str = "",
    ) -> None:
        self._tracker, self._folder, self._expert = tracker, folder, expert
        self._project, self._config = project, config
        self._start_step = start_step
        self._sent_step = sent_step if start_step else 0
        self._run: Any = None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Sends the scalars of a step.

        Raises:
          ConfigError: The tracker cannot begin a run.
        """
        if step <= self._sent_step:
            return
        if self._run is None:
            self._run = self._begin()
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Sends what is left, and ends the run."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    def _begin(self) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return _BEGIN[self._tracker](
                project=self._project,
                expert=self._expert,
                run_id=_run_id(self._folder, is_new=not self._start_step),
                folder=self._folder,
                config=self._config,
            )
        # Whatever a package raises without a login, a network or a right setting.
        except Exception as error:
            raise errors.ConfigError(
                found=f"{self._tracker} cannot begin a run of {self._expert}: {error}",
                expected="a tracker that is set up on this machine",
                do="Log in, set its environment variables (such as"
                " WANDB_MODE=offline), or leave it out of options.Metrics.trackers",
            ) from error


def _run_id(folder: pathlib.Path, *, is_new: bool) -> str:
    """Returns the id of a training's runs: the former one, or else a new one."""
    path = folder / _ID_FILE
    if not is_new and path.is_file():
        return path.read_text("utf-8").strip()
    run_id = uuid.uuid4().hex[:12]
    files.write_text(path, f"{run_id}\n")
    return run_id


def last_sent_step(path: pathlib.Path) -> int:
    """Returns the last step of a file of `JsonLinesWriter`; 0 if there is none."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for line in reversed(lines):
        try:
            return writers.step_of(line)
        except ValueError:  # empty, or torn by a kill
            continue
    return 0
