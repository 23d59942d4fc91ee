"""Where the metrics of one expert's training go, and what its manifest keeps."""

import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import NotRequired, TypedDict

from elm_jax import fields
from elm_jax.disk import json_files
from elm_jax.partitioning import processes
from elm_jax.runs.training import options
from elm_jax.training import hooks, optimizers, trackers, writers

_FILE = "metrics.jsonl"


def make_report(
    folder: pathlib.Path,
    *,
    expert: str,
    start_step: int,
    num_steps: int,
    optimizer: optimizers.Optimizer,
    config: str,
    settings: options.Metrics,
    waited_secs_fn: Callable[[], float] | None = None,
    console: writers.MetricWriter | None = None,
) -> hooks.ReportMetrics:
    """Returns a hook that writes to console, JSON lines, TensorBoard and trackers.

    Of several processes the first writes.

    Args:
      folder: Of the expert's work files.
      expert: Its name, for the console.
      start_step: Of the state that the training goes on from.
      num_steps: At which it is complete.
      optimizer: Gives the learning rate.
      config: Text to show in TensorBoard and trackers.
      settings: Which trackers get the metrics.
      waited_secs_fn: Time that the loop has waited for batches up to now.
      console: What shows the metrics; None for a line each time.
    """
    sinks = _sinks(
        folder, expert=expert, start_step=start_step, config=config, settings=settings
    )
    return hooks.ReportMetrics(
        (console or writers.ConsoleWriter(expert, num_steps=num_steps), *sinks)
        if processes.is_main()
        else (),
        num_steps=num_steps,
        waited_secs_fn=waited_secs_fn,
        learning_rate_fn=lambda step: optimizer.learning_rate_at(
            step, num_steps=num_steps
        ),
    )


def _sinks(
    folder: pathlib.Path,
    *,
    expert: str,
    start_step: int,
    config: str,
    settings: options.Metrics,
) -> Iterator[writers.MetricWriter]:
    """Yields the writers of metrics: files, then the trackers of the settings."""
    sent_step = trackers.last_sent_step(folder / _FILE) if settings.trackers else 0
    yield writers.JsonLinesWriter(folder / _FILE, start_step=start_step)
    yield writers.TensorBoardWriter(
        folder / "tensorboard", start_step=start_step, config=config
    )
    for name in settings.trackers:
        yield trackers.TrackerWriter(
            name,
            folder,
            expert=expert,
            project=settings.tracker_project,
            start_step=start_step,
            sent_step=sent_step,
            config=config,
        )


class _Last(TypedDict):
    step: fields.CountOrNone
    loss: NotRequired[fields.Finite]
    accuracy: NotRequired[fields.Finite]
    grad_norm: NotRequired[fields.Finite]


def read_last(folder: pathlib.Path, *, step: int) -> dict[str, float]:
    """Returns the metrics at the end that do not depend on the machine's speed.

    They are the last line's. If somebody has damaged or removed the file since it was
    written, or the line is of another step, there are none, and standard error is told
    so.

    Args:
      folder: Of the expert's work files.
      step: The last one.
    """
    path = folder / _FILE
    try:
        lines = json_files.read_bytes(path, most_bytes=sys.maxsize).splitlines()
        last = json_files.parse(lines[-1] if lines else b"")
        problems = json_files.misfits(last, _Last, known_only=True)
        if not problems and last["step"] != step:
            problems = [f"the last line is of step {last['step']} instead of {step}"]
        if problems:
            raise ValueError("; ".join(problems))
    except (OSError, ValueError) as error:
        text = f"{path} does not tell of the end, nor does the manifest then: {error}"
        print(text, file=sys.stderr, flush=True)  # noqa: T201
        return {}
    names = ("loss", "accuracy", "grad_norm")
    return {name: last[name] for name in names if name in last}
