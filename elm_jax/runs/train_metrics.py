"""Where the metrics of one expert's training go, and what its manifest keeps."""

import json
import pathlib
from collections.abc import Callable

from elm_jax.partitioning import processes
from elm_jax.training import hooks, optimizers, writers

_FILE = "metrics.jsonl"


def make_report(
    folder: pathlib.Path,
    *,
    expert: str,
    start_step: int,
    num_steps: int,
    optimizer: optimizers.Optimizer,
    config: str,
    waited_secs_fn: Callable[[], float] | None = None,
    console: writers.MetricWriter | None = None,
) -> hooks.ReportMetrics:
    """Returns a hook that writes to console, JSON lines and TensorBoard.

    Of several processes the first writes.

    Args:
      folder: Of the expert's work files.
      expert: Its name, for the console.
      start_step: Of the state that the training goes on from.
      num_steps: At which it is complete.
      optimizer: Gives the learning rate.
      config: Text to show in TensorBoard.
      waited_secs_fn: Time that the loop has waited for batches up to now.
      console: What shows the metrics; None for a line each time.
    """
    return hooks.ReportMetrics(
        (
            console or writers.ConsoleWriter(expert, num_steps=num_steps),
            writers.JsonLinesWriter(folder / _FILE, start_step=start_step),
            writers.TensorBoardWriter(
                folder / "tensorboard", start_step=start_step, config=config
            ),
        )
        if processes.is_main()
        else (),
        num_steps=num_steps,
        waited_secs_fn=waited_secs_fn,
        learning_rate_fn=lambda step: optimizer.learning_rate_at(
            step, num_steps=num_steps
        ),
    )


def read_last(folder: pathlib.Path) -> dict[str, float]:
    """Returns the metrics at the end, those that the machine's speed did not shape."""
    last = json.loads((folder / _FILE).read_text("utf-8").splitlines()[-1])
    kept = ("loss", "accuracy", "grad_norm")
    return {name: last[name] for name in kept if name in last}
