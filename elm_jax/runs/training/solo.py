"""Experts trained one after another, each with all devices of all processes."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.data import prefetch
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import processes
from elm_jax.runs.loaded import Expert
from elm_jax.runs.training.job import Jobs, Surroundings, make_profile
from elm_jax.runs.training.landing import Failures
from elm_jax.runs.training.shared_model import SharedModel
from elm_jax.runs.training.spec import ExpertSpec, TrainingSpec
from elm_jax.training import agreement, finite, hooks, loop, programs, signals, step
from elm_jax.training.job import Job
from elm_jax.types import Hook, ScheduledHook


class Solo:
    """Trains experts in their order.

    Args:
      spec: The training.
      shared: Model and base, on the devices of all processes.
      jobs: Begins each expert.
      land: Takes the name of a finished expert and what it is saved as.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        shared: SharedModel,
        jobs: Jobs,
        land: Callable[[str, Expert], None],
    ) -> None:
        self._spec, self._shared, self._jobs, self._land = spec, shared, jobs, land
        self._step_fn = step.make_train_step(
            shared.loss_fn, shared.tx, num_parts=spec.batching.num_parts
        )
        # Processes save together, and their clocks would not agree on when.
        grace_secs = spec.saving.stop_grace_secs
        self._slow_secs = math.inf if processes.are_several() else grace_secs / 2
        self._programs = programs.Programs(slow_secs=self._slow_secs)

    def train(self, names: Sequence[str]) -> Failures:
        """Trains experts and lands them; returns those that failed, with the reason.

        Raises:
          SystemExit: A signal came, and the state is saved.
          ElmError: Of several processes, what may have failed in one of them only.
        """
        # Processes that go on with different experts would wait for each other for
        # ever; that numbers are not finite all of them see.
        several = processes.are_several()
        stays_here = errors.TrainingError if several else errors.ElmError
        failures: Failures = {}
        for number, name in enumerate(names, 1):
            print(f"expert {number}/{len(names)}: {name}")  # noqa: T201
            try:
                self._train_one(name)
            except stays_here as error:
                failures[name] = error
        return failures

    def _train_one(self, name: str) -> None:
        """Trains an expert, which of several processes the first lands."""
        stop = signals.StopRequest(
            grace_secs=self._spec.saving.stop_grace_secs,
            has_unsaved=processes.are_several(),
        )
        agreed, ready = agreement.AgreedStop(stop), list[prefetch.Prefetcher]()

        def around_save(save: Hook, expert: ExpertSpec, good: finite.LastGood) -> Hook:
            checked = hooks.checked(save, expert=expert.name, last_good=good)
            return stop.waiting_for(checked)

        job = self._jobs.begin(
            name,
            Surroundings(
                waited_secs_fn=lambda: ready[0].waited_secs if ready else 0.0,
                slow_secs=self._slow_secs,
                around_save=around_save,
            ),
        )
        with stop, contextlib.ExitStack() as entered:
            entered.callback(stop.waiting_for(job.close))
            ready.append(entered.enter_context(self._prefetcher(job)))
            last = self._run_loop(
                job, ready[0], stop=stop, agreed=agreed, exit_stack=entered
            )
        agreed.exit_if_requested()
        params = processes.gather(last.params)
        if processes.is_main():
            self._land(name, self._jobs.finish(job, params))

    def _run_loop(
        self,
        job: Job,
        ready: prefetch.Prefetcher,
        *,
        stop: signals.StopRequest,
        agreed: agreement.AgreedStop,
        exit_stack: contextlib.ExitStack,
    ) -> Any:
        """Returns the state after the last step, or after that of a stop."""

        def after_step(step: int) -> None:
            stop.note_unsaved()
            agreed.note_step()
            job.after_step(step)

        every_hook: list[ScheduledHook] = [job.save]
        folder = self._spec.experts[job.name].work_dir / "profile"
        profile = make_profile(self._spec.metrics, folder)
        if profile is not None:
            exit_stack.callback(profile.close)
            every_hook.append(profile)
        first_state, job.state = job.state, None  # the first step takes its memory
        assert first_state is not None
        return loop.train(
            first_state,
            self._shared.frozen,
            step_fn=self._step_fn,
            batches=ready,
            num_steps=job.num_steps,
            report=job.report,
            hooks=every_hook,
            sums=job.sums,
            expert=job.name,
            after_step=after_step,
            should_stop=agreed.is_requested,
            answer_stop=agreed.note_answered,
            last_good=job.last_good,
            compiled=self._programs,
            before_slow=job.save.hook,
        )

    def _prefetcher(self, job: Job) -> prefetch.Prefetcher:
        def place(batch: Mapping[str, Any]) -> dict[str, Any]:
            return meshes.shard_batch(batch, self._shared.mesh)

        return prefetch.Prefetcher(
            job.batch_fn, job.start_step, stop_step=job.num_steps, put_fn=place
        )
