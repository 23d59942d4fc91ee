"""How the experts of a run are trained as a fleet: side by side, in one program."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import jax

from elm_jax import errors
from elm_jax.data import shapes
from elm_jax.partitioning import processes
from elm_jax.runs import fleet_table, train_metrics, trainer
from elm_jax.training import agreement, fleet_loop, hooks, loop, profiling, signals
from elm_jax.training import fleet as fleet_lib
from elm_jax.training.state import TrainState

if TYPE_CHECKING:
    from elm_jax.runs import train


class FleetTrainer:
    """Trains the experts of a run side by side.

    Args:
      run: What to train, with `num_slots` of at least 1.
      shared: Model and base of the run, on the fleet's mesh.
      land: Takes the name of a finished expert and what it is saved as; called in
        another thread.
    """

    def __init__(
        self,
        run: "train.Train",
        shared: trainer.Trainer,
        land: Callable[[str, trainer.Finished], None],
    ) -> None:
        self._run, self._shared, self._land = run, shared, land

    def train(
        self,
        names: Sequence[str],
        examples: Mapping[str, trainer.Examples],
        common_shapes: Sequence[shapes.Shape],
    ) -> dict[str, errors.ElmError]:
        """Trains experts and lands them; returns those that failed, with the reason.

        Raises:
          SystemExit: A signal came, here or to a process that trains other experts,
            and all states are saved.
        """
        run, shared = self._run, self._shared
        fleet = fleet_lib.Fleet(
            shared.loss_fn,
            shared.tx,
            example=shared.initial_state(run),
            mesh=shared.mesh,
            # What is left of a list has the program, and so the bits, of all of it.
            num_slots=run.num_slots
            if shared.num_lanes > 1
            else min(run.num_slots, len(names)),
            num_lanes=shared.num_lanes,
        )
        stop = signals.StopRequest(
            grace_secs=run.stop_grace_secs, has_unsaved=processes.are_several()
        )
        with stop, fleet_table.FleetTable(names) as table, contextlib.ExitStack() as to:

            def begin(name: str) -> fleet_loop.Member:
                number = names.index(name) + 1
                print(f"expert {number}/{len(names)}: {name}")  # noqa: T201
                ready = shared.prepare(name, examples[name], common_shapes)
                return self._member(ready, table, fleet)

            profile = self._profile(to)

            def after_step(num_steps: int) -> None:
                stop.note_unsaved()
                profile(num_steps)

            queue = ((n, lambda n=n: begin(n)) for n in names)
            failures = fleet_loop.train_fleet(
                fleet,
                shared.frozen,
                queue,
                should_stop=agreement.PassedOnStop(stop),
                after_step=after_step,
                slow_secs=run.stop_grace_secs / 2,
            )
        stop.exit_if_requested()
        return failures

    def _profile(self, to: contextlib.ExitStack) -> Callable[[int], None]:
        """Returns what traces steps of the fleet; adds to a stack how it ends."""
        run = self._run
        if not run.profile_steps:
            return lambda num_steps: None
        first, last = run.profile_steps
        who = f"_{jax.process_index()}" if processes.count() > 1 else ""
        folder = run.work_dir("fleet") / f"profile{who}"
        profile = profiling.ProfileSteps(folder, start=first, stop=last)
        to.callback(profile.close)

        def after_step(num_steps: int) -> None:
            if profile.is_due(num_steps):
                profile.hook(num_steps, None, {})

        return after_step

    def _member(
        self,
        ready: trainer.Prepared,
        table: fleet_table.FleetTable,
        fleet: fleet_lib.Fleet,
    ) -> fleet_loop.Member:
        run, name = ready.run, ready.name
        waited_before = fleet.waited_secs
        report = train_metrics.make_report(
            run.work_dir(name),
            expert=name,
            start_step=ready.start_step,
            num_steps=run.train_steps,
            optimizer=run.optimizer,
            config=run.operative_config(),
            console=table.writer(name, num_steps=run.train_steps),
            waited_secs_fn=lambda: fleet.waited_secs - waited_before,
        )

        def finish(state: TrainState) -> None:
            if run.keep_every_steps and run.train_steps % run.keep_every_steps == 0:
                ready.store.save(run.train_steps, state)
            ready.store.close()
            params = jax.device_get(state.params)
            self._land(name, self._shared.finish(ready, params))
            table.note_landed(name)

        def close() -> None:
            with contextlib.ExitStack() as closing:
                closing.callback(table.note_left, name)
                closing.callback(ready.store.close)
                closing.callback(report.close)

        return fleet_loop.Member(
            state=ready.state,
            batch_fn=ready.source.batch,
            num_steps=run.train_steps,
            report=loop.Every(run.log_every_steps, report),
            save=hooks.SaveSchedule(
                run.save_every_steps,
                hooks.save_states(ready.store),
                slow_secs=run.stop_grace_secs / 2,
                step_secs_fn=lambda: fleet.step_secs,
            ),
            finish=finish,
            sums=ready.sums,
            last_good=ready.store.name_last_good,
            close=close,
        )


def raise_failures(failures: Mapping[str, errors.ElmError], total: int) -> None:
    """Raises TrainingError that names all experts that failed, if any, with reasons.

    Args:
      failures: Reasons by expert.
      total: How many experts were to be trained; of one alone its own error is raised.
    """
    if len(failures) == 1 == total:
        raise next(iter(failures.values()))
    if failures:
        reasons = "\n".join(f"  {n}: {error}" for n, error in failures.items())
        raise errors.TrainingError(
            found=f"{len(failures)} of {total} experts failed; the others are"
            f" finished\n{reasons}",
            expected="every expert to finish",
            do="Change what each message says, then give the command again: it"
            " trains only what is not finished",
        )
