"""How an expert's job begins, and what a finished one is saved as.

Saving and reporting are put together here, once for experts alone and in a fleet; what
differs between these a `Surroundings` tells.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elm_jax.checkpoints import train_state
from elm_jax.data import batches, packing, shapes, span_corruption
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import processes
from elm_jax.runs import expert_card, task_data, vocabularies
from elm_jax.runs.loaded import Expert
from elm_jax.runs.training import kinds, metrics, mixing, options, record
from elm_jax.runs.training.shared_model import SharedModel
from elm_jax.runs.training.spec import ExpertSpec, TrainingSpec
from elm_jax.training import finite, hooks, loop, profiling, schedules, state, writers
from elm_jax.training.job import Job
from elm_jax.types import Hook, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Callbacks and times that a schedule gives to each expert that it trains.

    Attributes:
      waited_secs_fn: Time that devices have waited for its batches up to now.
      slow_secs: From which time on a step is slow, and saved by itself.
      step_secs_fn: Returns what its last step took, where steps of others lie between;
        None for the time between two of its own.
      console_fn: Makes what shows its metrics, by its name and number of steps.
      around_save: Returns a hook that saves as another does, and what else is to be.
      leave: Called with its name when the job is closed.
    """

    waited_secs_fn: Callable[[], float]
    slow_secs: float
    step_secs_fn: Callable[[], float] | None = None
    console_fn: Callable[[str, int], writers.MetricWriter] | None = None
    around_save: Callable[[Hook, ExpertSpec, finite.LastGood], Hook] | None = None
    leave: Callable[[str], None] = lambda name: None


class Jobs:
    """Begins the jobs of a training's experts, and makes experts of their results.

    Args:
      spec: The training.
      shared: Model and base, on the devices.
      data: Vocabulary and folders.
      examples: Of each expert, also of those that others train.
      common_shapes: Lengths of batches that all of them share.
      operative_config: Text of the configuration, for manifests and TensorBoard.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        shared: SharedModel,
        *,
        data: task_data.OpenedData,
        examples: Mapping[str, mixing.Examples],
        common_shapes: Sequence[shapes.Lengths],
        operative_config: str,
    ) -> None:
        self._spec, self._shared, self._data = spec, shared, data
        self._examples, self._common_shapes = examples, common_shapes
        self._operative_config = operative_config
        self._stores: dict[str, train_state.TrainStateStore] = {}

    def begin(self, name: str, around: Surroundings) -> Job:
        """Returns the job of an expert, from its own saved state if it has one.

        Raises:
          ElmError: Its state or its data cannot be read, or do not fit.
        """
        expert = self._spec.experts[name]
        source = self._batch_source(expert)
        store = self._open_store(expert, source)
        start, sums = self._restore(expert, store)
        start_step = int(start.step)
        report = self._make_report(expert, around, start_step=start_step)
        save = hooks.save_states(store)
        if around.around_save is not None:
            save = around.around_save(save, expert, store.name_last_good)
        saving = hooks.SaveSchedule(
            self._spec.saving.every_steps,
            save,
            slow_secs=around.slow_secs,
            step_secs_fn=around.step_secs_fn,
        )

        def close() -> None:
            with contextlib.ExitStack() as closing:
                closing.callback(around.leave, name)
                closing.callback(store.close)
                closing.callback(report.close)

        return Job(
            name=name,
            state=start,
            batch_fn=source.batch,
            num_steps=expert.train_steps,
            report=loop.Every(self._spec.metrics.every_steps, report),
            save=saving,
            after_step=saving.note_step,
            sums=sums,
            last_good=store.name_last_good,
            close=close,
        )

    def keep_last_state(self, job: Job, last: state.TrainState) -> None:
        """Saves the state after the last step if its number is one to keep for good."""
        period, store = self._spec.saving.keep_every_steps, self._stores[job.name]
        if period and job.num_steps % period == 0:
            store.save(job.num_steps, last)
        store.close()

    def finish(self, job: Job, params: Params) -> Expert:
        """Returns the expert that is saved, with these parameters."""
        vocabulary = self._data.vocabulary
        makes_base = kinds.KINDS[self._spec.kind].makes_base
        info = record.of_expert(
            self._spec,
            self._spec.experts[job.name],
            params,
            data=self._data,
            examples=self._examples[job.name],
            base=self._shared.base,
            start_step=job.start_step,
            operative_config=self._operative_config,
        )
        if makes_base:
            return Expert(params, info, vocabularies.attached(vocabulary))
        templates = {task: self._data.template_text(task) for task in info.tasks}
        card_text = expert_card.text(info, templates).encode()
        return Expert(params, info, {expert_card.FILE_NAME: card_text})

    def _batch_source(self, expert: ExpertSpec) -> batches.BatchSource:
        spec, examples = self._spec, self._examples[expert.name]
        arguments: dict[str, Any] = {
            "batch_size": spec.batch_size,
            "seed": expert.random_seed,
        }
        if not spec.is_fleet:
            arguments["batch_part"] = meshes.process_part(self._shared.mesh)
        if kinds.KINDS[spec.kind].objective == "span_corruption":
            return span_corruption.SpanCorruptionBatches(
                examples,
                features=self._data.features,
                vocabulary=self._data.vocabulary,
                **arguments,
            )
        arguments["max_examples"] = mixing.caps(
            spec.tasks, expert.max_examples, examples
        )
        if spec.batching.pack:
            return packing.PackedBatches(
                examples, row=self._common_shapes[0], **arguments
            )
        return batches.Batches(examples, shapes=self._common_shapes, **arguments)

    def _open_store(
        self, expert: ExpertSpec, source: batches.BatchSource
    ) -> train_state.TrainStateStore:
        """Returns where an expert's states are; all processes must mean the same."""
        base = self._shared.base
        config = record.of_state(
            self._spec,
            expert,
            data=self._data,
            examples=self._examples[expert.name],
            source=source,
            base_fingerprint=base.fingerprint if base else "",
        )
        processes.check_same(json.dumps(config), name=f"configuration of {expert.name}")
        store = train_state.TrainStateStore(
            expert.work_dir / "state",
            config=config,
            completed_fn=record.completed,
            bindings={"num_parts": "options.Batching.num_parts"},
            keep_last=self._spec.saving.keep_last,
            keep_every_steps=self._spec.saving.keep_every_steps,
        )
        self._stores[expert.name] = store
        return store

    def _restore(
        self, expert: ExpertSpec, store: train_state.TrainStateStore
    ) -> tuple[state.TrainState, Mapping[str, float]]:
        """Returns where an expert starts, and sums that were not reported before."""
        name, may_differ = expert.name, self._spec.saving.resume_changed_config
        initial = self._shared.initial_state(expert.random_seed)
        restored = store.restore(initial, allow_changed_config=may_differ)
        start = initial if restored is None else restored
        step = int(start.step)
        processes.check_same(f"{step}", name=f"saved state of {name}")
        sums = store.read_sums()
        if step:
            print(f"{name}: goes on from its own step {step}")  # noqa: T201
            good = store.name_last_good
            finite.check_state(
                start, step=step, expert=name, last_good=good, is_restored=True
            )
        if step and sums is None:
            text = "was saved without sums of metrics, as by release 0.1"
            next_one = f"the next line of metrics is of the steps after {step}"
            print(f"{name}: its state {text}; {next_one}", file=sys.stderr)  # noqa: T201
        # The program is for all experts; what it reads of the rates is the expert's.
        rates = schedules.set_schedule(
            start.opt_state, expert.optimizer.schedule(expert.train_steps)
        )
        return dataclasses.replace(start, opt_state=rates), sums or {}

    def _make_report(
        self, expert: ExpertSpec, around: Surroundings, *, start_step: int
    ) -> hooks.ReportMetrics:
        console = None
        if around.console_fn is not None:
            console = around.console_fn(expert.name, expert.train_steps)
        return metrics.make_report(
            expert.work_dir,
            expert=expert.name,
            start_step=start_step,
            num_steps=expert.train_steps,
            optimizer=expert.optimizer,
            config=self._operative_config,
            settings=self._spec.metrics,
            console=console,
            waited_secs_fn=around.waited_secs_fn,
        )


def make_profile(
    settings: options.Metrics, folder: pathlib.Path
) -> profiling.ProfileSteps | None:
    """Returns what traces the steps of the settings into a folder; None for none."""
    if not settings.profile_steps:
        return None
    first, last = settings.profile_steps
    return profiling.ProfileSteps(folder, start=first, stop=last)
