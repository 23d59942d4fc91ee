"""The train loop: it draws batches, calls the step and its hooks, nothing else."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from elm_jax import errors
from elm_jax.training import programs
from elm_jax.training.state import TrainState
from elm_jax.training.step import StepFn
from elm_jax.training.tally import Tally
from elm_jax.types import Batch, Hook, Metrics, Params, ScheduledHook


class Every(NamedTuple):
    """A hook and its period; the last step of a training fires every hook."""

    every_steps: int
    hook: Hook

    def is_due(self, step: int) -> bool:  # noqa: D102
        return step % self.every_steps == 0


def _do_nothing(step: int, state: Any, metrics: Metrics) -> None:
    pass


def train(
    state: TrainState,
    frozen: Params,
    *,
    step_fn: StepFn,
    batches: Iterator[tuple[int, Batch]],
    num_steps: int,
    hooks: Sequence[ScheduledHook] = (),
    expert: str = "",
    should_stop: Callable[[], bool] = lambda: False,
    last_checkpoint: Callable[[], object] = lambda: None,
    known: programs.Programs | None = None,
    before_slow: Hook = _do_nothing,
) -> TrainState:
    """Returns the state after `num_steps` steps, or after the step of a stop.

    Metrics of a step are read once the next one is on its way, so that the device
    never waits for the host; only where hooks fire does the loop wait for the step.
    A hook gets the number of steps done, the state after them, and each metric
    summed over the steps since it last fired, with their number as `num_steps`.

    Args:
      state: Where to start; its memory is given up to the first step.
      frozen: The part of the model that does not train.
      step_fn: From `make_train_step`.
      batches: `(n, batch)` for the step that follows n finished ones.
      num_steps: Steps at which the training is complete.
      hooks: Called in this order.
      expert: Name of what trains, for messages.
      should_stop: Asked after every step; True makes that step the last.
      last_checkpoint: Names the newest checkpoint, for messages.
      known: Programs that `step_fn` has; None where none is slow to compile.
      before_slow: Called before one compiles if that may be slow or much work would be
        lost, as no signal is answered then.

    Raises:
      TrainingError: A metric is not finite, or a batch is not of the next step.
    """
    step = int(jax.device_get(state.step))
    tally = Tally(len(hooks), expert=expert, last_checkpoint=last_checkpoint)
    known = known or programs.Programs(slow_secs=math.inf)
    start_step, is_last = step, step >= num_steps
    while not is_last:
        batch = _draw(batches, step)
        if step > start_step and known.must_save_before(batch):
            tally.read()
            before_slow(step, state, {})
        annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
        with annotation, known.running(batch):
            state, metrics = step_fn(state, frozen, batch)
        step += 1
        # Waits for the step before: with more steps in flight, XLA's CPU client may run
        # out of threads in collectives that wait for each other.
        tally.push(step, metrics)
        is_last = step == num_steps or should_stop()
        due = [n for n, each in enumerate(hooks) if each.is_due(step) or is_last]
        if due or is_last:
            tally.read()
        for number in due:
            hooks[number].hook(step, state, tally.take(number))
    return state


def _draw(batches: Iterator[tuple[int, Batch]], step: int) -> Batch:
    index, batch = next(batches, (None, {}))
    if index != step:
        raise errors.TrainingError(
            errors.explain(
                found=f"a batch for step {index} (None: there was none)",
                expected=f"the batch for step {step}, where the state is",
                do="Start the batches at the step of the state",
            )
        )
    return batch
