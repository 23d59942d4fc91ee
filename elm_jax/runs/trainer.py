"""How one expert is trained, with all that the experts of a run share."""

import contextlib
import dataclasses
import json
import math
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
from elm_jax.data import tasks as task_registry
from elm_jax.model import loss, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import processes
from elm_jax.peft import experts as expert_kinds
from elm_jax.runs import bases, task_data, train_metrics
from elm_jax.training import agreement, hooks, loop, profiling, signals, state, step
from elm_jax.types import Params, ScheduledHook

if TYPE_CHECKING:
    from elm_jax.runs import train

# Fields of a run that shape no bit of an expert, or do so by what `_config` adds.
_MAY_CHANGE = frozenset(
    (
        *("model_dir", "experts_dir", "expert_name", "tasks", "data", "shard"),
        "initial_checkpoint_path",
        *("save_every_steps", "keep_last", "keep_every_steps", "stop_grace_secs"),
        *("axis_rules", "num_fsdp", "num_model"),  # where it is computed
        *("log_every_steps", "profile_steps", "resume_changed_config"),
    )
)

Examples = Sequence[token_store.TokenizedDataset]


class Finished(NamedTuple):
    """What a finished expert is saved as."""

    params: Params
    manifest: manifest.Manifest


class Trainer:
    """What the experts of one run share: model, base on the devices, programs."""

    def __init__(self, run: "train.Train", data: task_data.OpenedData) -> None:
        self._run, self._data = run, data
        self._mesh = meshes.make_mesh(num_fsdp=run.num_fsdp, num_model=run.num_model)
        meshes.check_batch_size(run.batch_size, self._mesh)
        self._model = run.build_model().clone(split_rows=meshes.SplitRows(self._mesh))
        self._base = None
        if run.initial_checkpoint_path:
            self._base = bases.load_base(run.path(run.initial_checkpoint_path))
        self._tx = run.optimizer.make(run.train_steps)
        self._step_fn = step.make_train_step(loss.make_loss_fn(self._model), self._tx)

    def train(
        self, name: str, examples: Examples, common_shapes: Sequence[shapes.Shape]
    ) -> Finished | None:
        """Returns a finished expert; resumes one that was begun.

        Of several processes the first has it, the others None.

        Raises:
          SystemExit: A signal came, and the state is saved.
        """
        run = self._run
        source = self._batch_source(examples, common_shapes)
        config = self._config(examples, source)
        processes.check_same(json.dumps(config), what=f"configuration of {name}")
        store = train_state.TrainStateStore(
            run.work_dir(name) / "state",
            config=config,
            keep_last=run.keep_last,
            keep_every_steps=run.keep_every_steps,
        )
        now, frozen = self._initial_state()
        restored = store.restore(now, allow_changed_config=run.resume_changed_config)
        now = now if restored is None else restored
        start = int(now.step)
        processes.check_same(f"{start}", what=f"saved state of {name}")
        if start:
            print(f"{name}: goes on from its own step {start}")  # noqa: T201
        stop = signals.StopRequest(grace_secs=run.stop_grace_secs)
        agreed = agreement.AgreedStop(stop)
        with stop, contextlib.ExitStack() as entered:
            entered.callback(stop.waiting_for(store.close))
            ready = entered.enter_context(self._prefetcher(source, start))
            now = loop.train(
                now,
                frozen,
                step_fn=self._step_fn,
                batches=ready,
                num_steps=run.train_steps,
                hooks=self._hooks(
                    name, start=start, store=store, stop=stop, ready=ready, to=entered
                ),
                expert=name,
                should_stop=agreed,
                last_checkpoint=store.latest_step,
            )
        agreed.exit_if_requested()
        params = processes.gather(now.params)
        if not processes.is_main():
            return None
        return Finished(params, self._manifest(name, examples, params))

    def _hooks(
        self,
        name: str,
        *,
        start: int,
        store: train_state.TrainStateStore,
        stop: signals.StopRequest,
        ready: prefetch.Prefetcher,
        to: contextlib.ExitStack,
    ) -> list[ScheduledHook]:
        """Returns what happens between steps; adds to a stack how it is closed."""
        run = self._run
        report = train_metrics.make_report(
            run.work_dir(name),
            expert=name,
            start_step=start,
            num_steps=run.train_steps,
            optimizer=run.optimizer,
            config=run.operative_config(),
            waited_secs_fn=lambda: ready.waited_secs,
        )
        to.callback(report.close)
        saving = hooks.SaveSchedule(
            run.save_every_steps,
            stop.waiting_for(hooks.save_states(store)),
            # Processes save together, and their clocks would not agree on when.
            slow_secs=math.inf if processes.are_several() else run.stop_grace_secs / 2,
        )
        found: list[ScheduledHook] = [loop.Every(run.log_every_steps, report), saving]
        if run.profile_steps:
            first, last = run.profile_steps
            folder = run.work_dir(name) / "profile"
            profile = profiling.ProfileSteps(folder, start=first, stop=last)
            to.callback(profile.close)
            found.append(profile)
        return found

    def _initial_state(self) -> tuple[state.TrainState, Params]:
        """Returns the state before the first step, and what stays as it is."""
        run = self._run
        places = meshes.shardings(
            t5.param_shapes(self._model), self._mesh, run.axis_rules
        )
        given = trees.flatten({} if self._base is None else self._base.params)
        new = {n: place for n, place in trees.flatten(places).items() if n not in given}
        params: Params = t5.init_params(
            self._model, seed=run.random_seed, places=trees.unflatten(new)
        )
        if self._base is not None:
            base = meshes.place(self._base.params, self._mesh, run.axis_rules)
            params = trees.join(params, base)
        trainable, frozen = expert_kinds.split(params, run.pattern)
        return state.init_state(trainable, self._tx, seed=run.random_seed), frozen

    def _batch_source(
        self, examples: Examples, common_shapes: Sequence[shapes.Shape]
    ) -> batches.BatchSource:
        run = self._run
        options: dict[str, Any] = {"batch_size": run.batch_size}
        options["seed"] = run.random_seed
        options["shard"] = meshes.process_shard(self._mesh)
        features = self._data.features
        if run.kind == "base":
            return span_corruption.SpanCorruptionBatches(
                examples,
                features=features,
                vocabulary=self._data.vocabulary,
                **options,
            )
        options["max_examples"] = self._caps(examples)
        if run.pack:
            return packing.PackedBatches(examples, row=common_shapes[0], **options)
        return batches.Batches(examples, shapes=common_shapes, **options)

    def _caps(self, examples: Examples) -> dict[str, int]:
        """Returns the most examples to use, by task, of those that have a limit."""
        run = self._run
        caps = task_registry.registry.caps(run.tasks)
        limit = run.max_examples
        if limit:
            return {d.name: min(limit, caps.get(d.name, limit)) for d in examples}
        return {d.name: caps[d.name] for d in examples if d.name in caps}

    def _prefetcher(
        self, source: batches.BatchSource, start: int
    ) -> prefetch.Prefetcher:
        return prefetch.Prefetcher(
            source.batch,
            start,
            stop_step=self._run.train_steps,
            put_fn=self._place_batch,
        )

    def _place_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return meshes.shard_batch(batch, self._mesh)

    def _config(
        self, examples: Examples, source: batches.BatchSource
    ) -> dict[str, Any]:
        """Returns what must not change between stopping and going on, as JSON."""
        run = dataclasses.asdict(self._run)
        kept = {name: run[name] for name in run if name not in _MAY_CHANGE}
        kept["optimizer_kind"] = type(self._run.optimizer).__name__
        kept["adapter_kind"] = type(self._run.adapter).__name__
        kept["model"] = dataclasses.asdict(self._run.model_config())
        kept["base_fingerprint"] = self._base.fingerprint if self._base else ""
        kept["shapes"] = [list(shape) for shape in source.shapes]
        # Fingerprints are of rows, templates, vocabulary, lengths and code; an
        # example's number is decided by the order of tasks as well.
        kept["data"] = {d.name: d.fingerprint for d in examples}
        kept["vocabulary"] = self._data.vocabulary.fingerprint
        kept["order_of_data"] = [d.name for d in examples]
        kept["max_examples"] = self._caps(examples)
        kept["versions"] = manifest.installed_versions()
        return json.loads(json.dumps(kept))

    def _manifest(
        self, name: str, examples: Examples, params: Params
    ) -> manifest.Manifest:
        run, base = self._run, self._base
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
            steps=run.train_steps,
            seed=run.random_seed,
            versions=manifest.installed_versions(),
            metrics=dict(train_metrics.read_last(run.work_dir(name))),
            operative_config=run.operative_config(),
        )
