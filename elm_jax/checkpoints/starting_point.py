"""Where a training starts: the order is stated here and nowhere else.

1. The newest state of the run itself, so that a killed run goes on.
2. The initial checkpoint that the configuration names: a base or expert that
   elm_jax saved, or one that T5X wrote.
3. Scratch: fresh parameters from the seed.
"""

import dataclasses
import enum
import pathlib
from typing import Any

from elm_jax import errors, paths, trees
from elm_jax.checkpoints import experts, manifest, t5x
from elm_jax.checkpoints.train_state import TrainStateStore


class Kind(enum.Enum):
    """What a training starts from."""

    OWN_RUN = "the run's own newest state"
    SAVED = "a base or expert"
    T5X = "a T5X checkpoint"
    SCRATCH = "scratch"


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """A choice among the three.

    Attributes:
      kind: Which one.
      path: The initial checkpoint, None for others.
      step: Of the run's own state, else 0.
    """

    kind: Kind
    path: pathlib.Path | None = None
    step: int = 0

    def __str__(self) -> str:
        """Returns the choice as words for a log line."""
        if self.kind is Kind.OWN_RUN:
            return f"{self.kind.value}, step {self.step}"
        return f"{self.kind.value}{f' in {self.path}' if self.path else ''}"


def choose_starting_point(
    store: TrainStateStore, initial_checkpoint: str | pathlib.Path = ""
) -> StartingPoint:
    """Returns the first that exists in the order above; reads no tensors.

    Args:
      store: Of the run's own states.
      initial_checkpoint: A folder, or "" for none.

    Raises:
      CheckpointError: The initial checkpoint is named but is not there. It is
        looked for only if the run has no state of its own.
    """
    step = store.latest_step()
    if step is not None:
        return StartingPoint(Kind.OWN_RUN, step=step)
    if not initial_checkpoint:
        return StartingPoint(Kind.SCRATCH)
    path = paths.absolute(initial_checkpoint)
    if (path / manifest.FILE_NAME).is_file():
        return StartingPoint(Kind.SAVED, path)
    if t5x.is_t5x(path):
        return StartingPoint(Kind.T5X, path)
    raise errors.CheckpointError(
        errors.explain(
            found=f"{path} is no checkpoint: {_describe(path)}",
            expected="a folder with manifest.json, or checkpoint_<step> of T5X",
            do="Correct INITIAL_CHECKPOINT_PATH, or leave it empty for scratch",
        )
    )


def load_initial_params(
    point: StartingPoint, *, expected: Any | None = None
) -> dict[str, Any]:
    """Returns the tensors of an initial checkpoint, in float32.

    Args:
      point: Of kind SAVED or T5X.
      expected: Shapes by name that the tensors must have; None takes any.

    Raises:
      CheckpointError: It cannot be read, or has other tensors (all are named).
    """
    if point.path is None:
        raise ValueError(f"{point} holds no initial checkpoint")
    if point.kind is Kind.SAVED:
        params, _ = experts.load_expert(point.path, expected=expected)
        return trees.as_float32(params)
    params, _ = t5x.load_t5x(point.path)
    if expected is not None:
        experts.check_same_tensors(params, expected, of=str(point.path))
    return params


def _describe(path: pathlib.Path) -> str:
    if not path.is_dir():
        return "there is no such folder"
    inside = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    return f"it holds {', '.join(inside[:5]) or 'nothing'}"
