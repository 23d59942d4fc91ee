"""How one expert is trained, with all that the experts of a run share."""

import contextlib
import dataclasses
import functools
import json
import math
import sys
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from elm_jax import trees
from elm_jax.checkpoints import manifest, train_state
from elm_jax.data import (
    batches,
    packing,
    prefetch,
    shapes,
    span_corruption,
    token_store,
)
from elm_jax.model import loss, precision, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import processes
from elm_jax.peft import experts as expert_kinds
from elm_jax.runs import (
    bases,
    fleet_layout,
    loaded,
    mixing,
    task_data,
    train_metrics,
    training_config,
    vocabularies,
)
from elm_jax.training import (
    agreement,
    finite,
    fleet,
    hooks,
    loop,
    profiling,
    programs,
    schedules,
    signals,
    state,
    step,
)
from elm_jax.types import Params, ScheduledHook

if TYPE_CHECKING:
    from elm_jax.runs import train

Examples = Sequence[token_store.TokenizedDataset]


class Finished(NamedTuple):
    """What a finished expert is saved as; `attached` has files by name."""

    params: Params
    manifest: manifest.Manifest
    attached: Mapping[str, bytes] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """An expert that is about to train, or to go on.

    Attributes:
      name: Of the expert.
      run: The training, with the expert's own settings.
      examples: Its data.
      source: Its batches.
      store: Its saved states.
      state: Where it starts.
      start_step: The step of that.
      sums: Of metrics that were not reported before it.
    """

    name: str
    run: "train.Train"
    examples: Examples
    source: batches.BatchSource
    store: train_state.TrainStateStore
    state: state.TrainState
    start_step: int
    sums: Mapping[str, float]


class Trainer:
    """What the experts of one run share: model, base on the devices, programs."""

    def __init__(self, run: "train.Train", data: task_data.OpenedData) -> None:
        self._run, self._data = run, data
        self._model = run.build_model()
        self._axis_rules = run.placement.axis_rules
        if run.is_fleet:
            layout = fleet_layout.of_run(run)
            self._axis_rules, self.num_lanes = layout.axis_rules, layout.num_lanes
            self.mesh = fleet.make_mesh(num_model=layout.num_model)
        else:
            place = run.placement
            self.mesh = meshes.make_mesh(
                num_fsdp=place.num_fsdp, num_model=place.num_model
            )
            meshes.check_batch_size(run.batch_size, self.mesh)
            split_rows = meshes.SplitRows(self.mesh)
            self._model = self._model.clone(split_rows=split_rows)
        self._base = None
        if run.initial_checkpoint_path:
            self._base = loaded.Base.load(run.path(run.initial_checkpoint_path))
        self.tx = run.optimizer.make(run.train_steps)
        self.loss_fn = loss.make_loss_fn(self._model)
        self._step_fn = step.make_train_step(self.loss_fn, self.tx)
        # Processes save together, and their clocks would not agree on when.
        several = processes.are_several()
        self._slow_secs = math.inf if several else run.stop_grace_secs / 2
        self._known = programs.Programs(slow_secs=self._slow_secs)

    @functools.cached_property
    def frozen(self) -> Params:
        """What trains in no expert, on the devices."""
        return trees.split(self._placed_base, self._run.pattern)[1]

    @functools.cached_property
    def _placed_base(self) -> Params:
        if self._base is None:
            return {}
        placed = meshes.place(self._base.params, self.mesh, self._axis_rules)
        trained, frozen = trees.split(placed, self._run.pattern)
        frozen = precision.in_compute_dtype(self._model.config, frozen)
        return trees.join(trained, frozen)

    def initial_state(self, run: "train.Train") -> state.TrainState:
        """Returns the state before the first step of an expert.

        Args:
          run: With the expert's own settings.
        """
        shapes_of_all = t5.param_shapes(self._model)
        places = meshes.shardings(shapes_of_all, self.mesh, self._axis_rules)
        given = trees.flatten(self._placed_base)
        new = {n: place for n, place in trees.flatten(places).items() if n not in given}
        added = t5.init_params(
            self._model, seed=run.random_seed, places=trees.unflatten(new)
        )
        params = trees.join(added, self._placed_base)
        trainable, _ = expert_kinds.split(params, run.pattern)
        return state.init_state(trainable, self.tx, seed=run.random_seed)

    def prepare(
        self, name: str, examples: Examples, common_shapes: Sequence[shapes.Shape]
    ) -> Prepared:
        """Returns what an expert begins with; a state of its own, if it was begun.

        Raises:
          ElmError: Its state or its data cannot be read, or do not fit.
        """
        run = self._run.of_expert(name)
        source = self._batch_source(run, examples, common_shapes)
        config = self._config(run, examples, source)
        processes.check_same(json.dumps(config), what=f"configuration of {name}")
        store = train_state.TrainStateStore(
            run.work_dir(name) / "state",
            config=config,
            keep_last=run.keep_last,
            keep_every_steps=run.keep_every_steps,
        )
        now = self.initial_state(run)
        restored = store.restore(now, allow_changed_config=run.resume_changed_config)
        now = now if restored is None else restored
        start = int(now.step)
        processes.check_same(f"{start}", what=f"saved state of {name}")
        sums = store.read_sums()
        if start:
            print(f"{name}: goes on from its own step {start}")  # noqa: T201
            good = store.name_last_good
            finite.check_restored(now, step=start, expert=name, last_good=good)
        if start and sums is None:
            text = "was saved without sums of metrics, as by release 0.1"
            next_one = f"the next line of metrics is of the steps after {start}"
            print(f"{name}: its state {text}; {next_one}", file=sys.stderr)  # noqa: T201
        # The program is for all experts; what it reads of the rates is the expert's.
        rates = schedules.set_schedule(
            now.opt_state, run.optimizer.schedule(run.train_steps)
        )
        return Prepared(
            name=name,
            run=run,
            examples=examples,
            source=source,
            store=store,
            state=dataclasses.replace(now, opt_state=rates),
            start_step=start,
            sums=sums or {},
        )

    def finish(self, expert: Prepared, params: Params) -> Finished:
        """Returns what an expert with the given parameters is saved as."""
        attached = {}
        if expert.run.kind == "base":
            attached = vocabularies.attached(self._data.vocabulary)
        return Finished(params, self._manifest(expert, params), attached)

    def train(
        self, name: str, examples: Examples, common_shapes: Sequence[shapes.Shape]
    ) -> Finished | None:
        """Returns a finished expert, trained with all devices.

        Of several processes the first has it, the others None.

        Raises:
          SystemExit: A signal came, and the state is saved.
        """
        expert = self.prepare(name, examples, common_shapes)
        run, store = expert.run, expert.store
        stop = signals.StopRequest(
            grace_secs=run.stop_grace_secs, has_unsaved=processes.are_several()
        )
        agreed = agreement.AgreedStop(stop)

        def should_stop() -> bool:
            stop.note_unsaved()  # it is asked after a step
            return agreed()

        with stop, contextlib.ExitStack() as entered:
            entered.callback(stop.waiting_for(store.close))
            ready = entered.enter_context(self._prefetcher(expert))
            saving = hooks.SaveSchedule(
                run.save_every_steps,
                stop.waiting_for(
                    hooks.checked(
                        hooks.save_states(store),
                        expert=name,
                        last_good=store.name_last_good,
                    )
                ),
                slow_secs=self._slow_secs,
            )
            now = loop.train(
                expert.state,
                self.frozen,
                step_fn=self._step_fn,
                batches=ready,
                num_steps=run.train_steps,
                report=self._reporting(expert, ready=ready, to=entered),
                hooks=[saving, *self._profiling(expert, to=entered)],
                sums=expert.sums,
                expert=name,
                should_stop=should_stop,
                last_good=store.name_last_good,
                known=self._known,
                before_slow=saving.hook,
            )
        agreed.exit_if_requested()
        params = processes.gather(now.params)
        return self.finish(expert, params) if processes.is_main() else None

    def _reporting(
        self, expert: Prepared, *, ready: prefetch.Prefetcher, to: contextlib.ExitStack
    ) -> ScheduledHook:
        """Returns what reports metrics; adds to a stack how it is closed."""
        run, name = expert.run, expert.name
        report = train_metrics.make_report(
            run.work_dir(name),
            expert=name,
            start_step=expert.start_step,
            num_steps=run.train_steps,
            optimizer=run.optimizer,
            config=run.operative_config(),
            waited_secs_fn=lambda: ready.waited_secs,
        )
        to.callback(report.close)
        return loop.Every(run.log_every_steps, report)

    def _profiling(
        self, expert: Prepared, *, to: contextlib.ExitStack
    ) -> list[ScheduledHook]:
        """Returns what traces steps, if anything; adds to a stack how it ends."""
        if not expert.run.profile_steps:
            return []
        first, last = expert.run.profile_steps
        folder = expert.run.work_dir(expert.name) / "profile"
        profile = profiling.ProfileSteps(folder, start=first, stop=last)
        to.callback(profile.close)
        return [profile]

    def _batch_source(
        self,
        run: "train.Train",
        examples: Examples,
        common_shapes: Sequence[shapes.Shape],
    ) -> batches.BatchSource:
        options: dict[str, Any] = {"batch_size": run.batch_size}
        options["seed"] = run.random_seed
        if not self._run.is_fleet:
            options["shard"] = meshes.process_shard(self.mesh)
        features = self._data.features
        if run.kind == "base":
            return span_corruption.SpanCorruptionBatches(
                examples,
                features=features,
                vocabulary=self._data.vocabulary,
                **options,
            )
        options["max_examples"] = mixing.caps(run, examples)
        if run.pack:
            return packing.PackedBatches(examples, row=common_shapes[0], **options)
        return batches.Batches(examples, shapes=common_shapes, **options)

    def _prefetcher(self, expert: Prepared) -> prefetch.Prefetcher:
        return prefetch.Prefetcher(
            expert.source.batch,
            expert.start_step,
            stop_step=expert.run.train_steps,
            put_fn=self._place_batch,
        )

    def _place_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return meshes.shard_batch(batch, self.mesh)

    def _config(
        self, run: "train.Train", examples: Examples, source: batches.BatchSource
    ) -> dict[str, Any]:
        """Returns what must not change between stopping and going on, as JSON."""
        kept = training_config.settings(run)
        kept["base_fingerprint"] = self._base.fingerprint if self._base else ""
        kept["shapes"] = [list(shape) for shape in source.shapes]
        # Fingerprints are of rows, templates, vocabulary, lengths and code; an
        # example's number is decided by the order of tasks as well.
        kept["data"] = {d.name: d.fingerprint for d in examples}
        kept["vocabulary"] = self._data.vocabulary.fingerprint
        kept["order_of_data"] = [d.name for d in examples]
        kept["max_examples"] = mixing.caps(run, examples)
        kept["versions"] = manifest.installed_versions()
        return json.loads(json.dumps(kept))

    def _manifest(self, expert: Prepared, params: Params) -> manifest.Manifest:
        run, base = expert.run, self._base
        name, examples = expert.name, expert.examples
        # A changed configuration may ask for fewer than were taken before.
        steps = max(run.train_steps, expert.start_step)
        return manifest.Manifest(
            name=name,
            kind=run.kind,
            base_name=base.name if base else name,
            base_fingerprint=base.fingerprint if base else trees.fingerprint(params),
            model=dataclasses.asdict(run.model_config()),
            adapter=bases.describe(run.adapter),
            trainable_pattern=run.pattern,
            tasks=tuple(dataset.name for dataset in examples),
            data={d.name: self._data.describe(d) for d in examples},
            steps=steps,
            seed=run.random_seed,
            versions=manifest.installed_versions(),
            training=training_config.settings(run)
            | training_config.of_tokens(run, self._data),
            vocabulary=vocabularies.describe(
                self._data.vocabulary, set_by="the training"
            ),
            metrics=train_metrics.read_last(run.work_dir(name), step=steps),
            operative_config=run.operative_config(),
        )
