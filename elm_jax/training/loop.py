"""The train loop: it draws batches, calls the step and its hooks, nothing else."""

import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from elm_jax import errors
from elm_jax.training import finite, programs
from elm_jax.training.state import TrainState
from elm_jax.training.step import StepFn
from elm_jax.training.tally import Tally
from elm_jax.types import Batch, Hook, Metrics, Params, ScheduledHook


class Every(NamedTuple):
    """A hook and its period."""

    every_steps: int
    hook: Hook

    def is_due(self, step: int) -> bool:  # noqa: D102
        return step % self.every_steps == 0


def _save_nothing(step: int, state: Any, metrics: Metrics) -> None:
    pass


def _note_nothing(step: int) -> None:
    pass


def train(
    state: TrainState,
    frozen: Params,
    *,
    step_fn: StepFn,
    batches: Iterator[tuple[int, Batch]],
    num_steps: int,
    report: ScheduledHook | None = None,
    hooks: Sequence[ScheduledHook] = (),
    sums: Mapping[str, float] = types.MappingProxyType({}),
    expert: str = "",
    after_step: Callable[[int], None] = _note_nothing,
    should_stop: Callable[[], bool] = lambda: False,
    answer_stop: Callable[[], None] = lambda: None,
    last_good: finite.LastGood = finite.nothing_saved,
    compiled: programs.Programs | None = None,
    before_slow: Hook = _save_nothing,
) -> TrainState:
    """Returns the state after `num_steps` steps, or after the step of a stop.

    Metrics of a step are read once the next one is on its way, so that the device
    never waits for the host; only where hooks fire does the loop wait for the step.
    The report gets the number of steps done, the state after them, and each metric
    summed over the steps since the last report, with their number as `num_steps`.
    Hooks get what has been summed up to then for the next report: saved with the
    state, and given back as `sums`, it makes reports what they would have been.

    Args:
      state: Where to start; its memory is given up to the first step.
      frozen: The part of the model that does not train.
      step_fn: What `make_train_step` returns.
      batches: `(n, batch)` for the step that follows n finished ones.
      num_steps: Steps at which the training is complete.
      report: Called before the hooks, where it is due and after the last step of the
        training; a stop makes no report.
      hooks: Called in this order, where they are due and after the last step, also
        that of a stop.
      sums: Of the steps since the last report of a training that goes on.
      expert: Name of what trains, for messages.
      after_step: Called with the number of each step once the devices have it.
      should_stop: Asked after that; True makes the step the last.
      answer_stop: Called after this True, before anything is saved.
      last_good: Names the newest saved state of at most so many steps, for messages.
      compiled: Programs that `step_fn` has; None where none is slow to compile.
      before_slow: Called before one compiles if that may be slow or much work would be
        lost, as no signal is answered then.

    Raises:
      TrainingError: A metric is not finite, or a batch is not of the next step.
    """
    step = int(jax.device_get(state.step))
    tally = Tally(expert=expert, last_good=last_good, sums=sums)
    compiled = compiled or programs.Programs(slow_secs=math.inf)
    start_step, is_last = step, step >= num_steps
    while not is_last:
        batch = _draw(batches, step)
        if step > start_step and compiled.must_save_before(batch):
            tally.read()
            before_slow(step, state, tally.sums)
            compiled.note_saved()
        annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
        with annotation, compiled.running(batch):
            state, metrics = step_fn(state, frozen, batch)
        step += 1
        # Waits for the step before: with more steps in flight, XLA's CPU client may run
        # out of threads in collectives that wait for each other.
        tally.push(step, metrics)
        after_step(step)
        is_complete = step == num_steps
        is_stopped = not is_complete and should_stop()
        if is_stopped:
            answer_stop()
        is_last = is_complete or is_stopped
        reports = [r for r in (report,) if r and (r.is_due(step) or is_complete)]
        due = [hook for hook in hooks if hook.is_due(step) or is_last]
        if reports or due or is_last:
            tally.read()
        for hook in reports:
            hook.hook(step, state, tally.take())
        for hook in due:
            hook.hook(step, state, tally.sums)
    return state


def _draw(batches: Iterator[tuple[int, Batch]], step: int) -> Batch:
    index, batch = next(batches, (None, {}))
    if index != step:
        raise errors.TrainingError(
            found=f"a batch for step {index} (None: there was none)",
            expected=f"the batch for step {step}, where the state is",
            do="Start the batches at the step of the state",
        )
    return batch
