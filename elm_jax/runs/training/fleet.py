"""Experts trained side by side, in one program on the devices of this process."""

import contextlib
from collections.abc import Callable, Sequence

import jax

from elm_jax.partitioning import processes
from elm_jax.runs.loaded import Expert
from elm_jax.runs.training import fleet_table
from elm_jax.runs.training.fleet_layout import Layout
from elm_jax.runs.training.job import Jobs, Surroundings, make_profile
from elm_jax.runs.training.landing import Failures
from elm_jax.runs.training.shared_model import SharedModel
from elm_jax.runs.training.spec import TrainingSpec
from elm_jax.training import agreement, fleet_loop, signals
from elm_jax.training import fleet as fleet_lib
from elm_jax.training.job import Job
from elm_jax.training.state import TrainState


class SideBySide:
    """Trains experts of a frozen base as a fleet.

    Args:
      spec: The training.
      shared: Model and base, on the fleet's mesh.
      jobs: Begins each expert.
      land: Takes the name of a finished expert and what it is saved as; called in
        another thread.
      layout: Of the fleet, with at least one slot.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        shared: SharedModel,
        jobs: Jobs,
        land: Callable[[str, Expert], None],
        *,
        layout: Layout,
    ) -> None:
        self._spec, self._shared, self._jobs, self._land = spec, shared, jobs, land
        self._layout = layout

    def train(self, names: Sequence[str]) -> Failures:
        """Trains experts and lands them; returns those that failed, with the reason.

        Raises:
          SystemExit: A signal came, here or to a process that trains other experts,
            and all states are saved.
        """
        if not names:
            return {}
        fleet = self._make_fleet(len(names))
        grace_secs = self._spec.saving.stop_grace_secs
        stop = signals.StopRequest(
            grace_secs=grace_secs, has_unsaved=processes.are_several()
        )
        stop_of_any = agreement.PassedOnStop(stop)
        with (
            stop,
            fleet_table.FleetTable(names) as table,
            contextlib.ExitStack() as exit_stack,
        ):

            def begin(name: str) -> Job:
                print(f"expert {names.index(name) + 1}/{len(names)}: {name}")  # noqa: T201
                return self._jobs.begin(name, _surroundings(fleet, table, grace_secs))

            def finish(job: Job, last: TrainState) -> None:
                self._jobs.keep_last_state(job, last)
                params = jax.device_get(last.params)
                self._land(job.name, self._jobs.finish(job, params))
                table.note_landed(job.name)

            trace = self._make_trace(exit_stack)

            def after_step(num_steps: int) -> None:
                stop.note_unsaved()
                trace(num_steps)

            failures = fleet_loop.train_fleet(
                fleet,
                self._shared.frozen,
                ((name, lambda name=name: begin(name)) for name in names),
                finish=finish,
                listen=stop_of_any.listen,
                should_stop=stop_of_any.is_requested,
                answer_stop=stop.note_answered,
                after_step=after_step,
                slow_secs=grace_secs / 2,
            )
        stop.exit_if_requested()
        return failures

    def _make_fleet(self, num_experts: int) -> fleet_lib.Slots:
        shared, layout = self._shared, self._layout
        # What is left of a list has the program, and so the bits, of all of it.
        num_slots = layout.num_slots
        if layout.num_lanes == 1:
            num_slots = min(num_slots, num_experts)
        return fleet_lib.Slots(
            shared.loss_fn,
            shared.tx,
            example=shared.initial_state(self._spec.random_seed),
            mesh=shared.mesh,
            num_slots=num_slots,
            num_lanes=layout.num_lanes,
            num_parts=self._spec.batching.num_parts,
        )

    def _make_trace(self, exit_stack: contextlib.ExitStack) -> Callable[[int], None]:
        """Returns what traces steps of the fleet; adds to a stack how it ends."""
        process = f"_{jax.process_index()}" if processes.count() > 1 else ""
        folder = self._spec.work_dir / "fleet" / f"profile{process}"
        profile = make_profile(self._spec.metrics, folder)
        if profile is None:
            return lambda num_steps: None
        exit_stack.callback(profile.close)

        def trace(num_steps: int) -> None:
            if profile.is_due(num_steps):
                profile.hook(num_steps, None, {})

        return trace


def _surroundings(
    fleet: fleet_lib.Slots, table: fleet_table.FleetTable, grace_secs: float
) -> Surroundings:
    """Returns what a fleet and its table give to an expert that begins."""
    waited_before = fleet.waited_secs
    return Surroundings(
        waited_secs_fn=lambda: fleet.waited_secs - waited_before,
        slow_secs=grace_secs / 2,
        step_secs_fn=lambda: fleet.step_secs,
        console_fn=lambda name, steps: table.writer(name, num_steps=steps),
        leave=table.note_left,
    )
