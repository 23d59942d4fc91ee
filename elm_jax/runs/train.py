"""elm_train: experts, side by side or one by one, a multitask baseline or a base."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import ClassVar

from elm_jax import errors, expert_kinds, fields, paths
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import naming
from elm_jax.model import config
from elm_jax.partitioning import cpu_devices, processes
from elm_jax.peft import adapters, expert_parts
from elm_jax.runs import (
    data_folder,
    expert_settings,
    moved_fields,
    shards,
    task_data,
    work_folders,
)
from elm_jax.runs.placement import Placement
from elm_jax.runs.run import Plan, Run
from elm_jax.runs.training import (
    cost_table,
    kinds,
    landing,
    options,
    schedule,
    seeds,
    work_sharing,
)
from elm_jax.runs.training.spec import ExpertSpec, TrainingSpec, trainable_pattern_of
from elm_jax.training import optimizers


@moved_fields.takes_old_names(options.MOVED)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Run):
    """Trains one expert per task, or a base, into `<experts_dir>/<name>`.

    Experts that are finished are skipped, unfinished ones resume, so that the same
    command can be given again after any interruption.

    Its 15 values are the most that it may have; a new one goes into one of its 6 parts.

    Attributes:
      kind: What comes out: a `prompt`, `dataset` or `multitask` expert of a base, a
        `selection` expert, the control that is trained on the rows by which others are
        chosen, or a `base` from scratch by span corruption. Each stands for an
        objective, a grouping of the tasks and the parts that train (`training.kinds`).
      tasks: Names or patterns of tasks and mixtures. Prompt experts are trained one
        for each task, dataset experts one for each dataset among the tasks, and the
        other kinds are one model for all of them.
      data: Vocabulary, lengths and folders of the tasks' tokens.
      optimizer: Its schedule runs over `train_steps`.
      train_steps: Updates per expert.
      batch_size: Examples per update, over all devices.
      initial_checkpoint_path: Folder of the base; not for kind `base`.
      model: Shape of a base trained from scratch; experts take their base's.
      adapter: What experts add to the base, if `expert_parts` has adapters.
      expert_parts: A name in `peft.expert_parts.PARTS`; by default `adapters_and_norms`
        for prompt experts, else `all`.
      dropout_rate: Fraction in [0, 1), while training.
      random_seed: The seed of initialisation, batches and dropout. Several, such as
        `(42, 43, 44)`, train each expert once with each, into
        `<experts_dir>/seed<number>/<name>`; reports take these for one expert.
      execution: How the model is computed, where it is not as the base records.
      per_expert: Settings of experts whose names fit a pattern, where they differ
        from the run's; later patterns win.
      shard: `i/n` trains part i, from 0, of the experts dealt out by name to n
        machines; "" trains all.
      batching: How examples are put into batches.
      placement: How parameters and batches lie over the devices.
      fleet: How experts train side by side.
      saving: When states are saved.
      metrics: What is told of the steps.
      results: Where finished experts go.
    """

    can_share_work: ClassVar[bool] = True

    kind: expert_kinds.TrainedKind
    tasks: str | tuple[str, ...]
    data: task_data.TaskData
    optimizer: optimizers.AdamW | optimizers.Adafactor
    train_steps: fields.Count
    batch_size: fields.Count
    initial_checkpoint_path: paths.OptionalPath = ""
    model: config.T5Config | None = None
    adapter: adapters.AdapterSpec | None = None
    expert_parts: str = ""
    dropout_rate: fields.ShareBelowOne = 0.0
    random_seed: fields.Seed | tuple[fields.Seed, ...] = 42
    execution: config.Execution = config.Execution()
    per_expert: Mapping[str, expert_settings.ExpertSettings] = dataclasses.field(
        default_factory=dict
    )
    shard: str = ""
    batching: options.Batching = options.Batching()
    placement: Placement = Placement()
    fleet: options.Fleet = options.Fleet()
    saving: options.Saving = options.Saving()
    metrics: options.Metrics = options.Metrics()
    results: options.Results = options.Results()

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other."""
        wrong = {}
        makes_base = kinds.KINDS[self.kind].makes_base
        trainable_pattern = trainable_pattern_of(self.kind, self.expert_parts)
        if makes_base != (self.model is not None):
            wrong["model"] = "a shape for kind base, and for no other"
        if makes_base == bool(self.initial_checkpoint_path):
            wrong["initial_checkpoint_path"] = "a base's folder, unless kind is base"
        if (expert_parts.ADAPTERS in trainable_pattern) != (self.adapter is not None):
            wrong["adapter"] = "a spec if adapters train, and only then"
        if makes_base and self.expert_parts not in ("", "all"):
            wrong["expert_parts"] = "all for kind base"
        is_fused = self.execution.attention in ("dot_product", "cudnn")
        if self.dropout_rate and is_fused and self.execution.attention_dropout:
            wrong["dropout_rate"] = (
                "0, as fused attention drops no weights; or"
                " config.Execution.attention_dropout = False, which is another recipe"
            )
        if self.batch_size % max(1, self.batching.num_parts):
            wrong["batching"] = "a num_parts that divides batch_size"
        wrong |= seeds.problems(self.random_seed, self.results, self.per_expert)
        naming.check_is_no_label(self.results.expert_name, self.kind)
        shards.parse(self.shard)
        fields.refuse(self, wrong, of_kind=f"of kind {self.kind!r}")

    def experts(self) -> dict[str, list[str]]:
        """Returns the tasks of each expert to be, by the expert's name.

        Raises:
          ConfigError: A task is unknown, or `expert_name` does not fit their number.
        """
        grouped = kinds.group(self.kind, task_registry.registry.expand(self.tasks))
        name = self.results.expert_name
        if not name:
            return grouped
        if len(grouped) > 1:
            raise errors.ConfigError(
                found=f"expert_name {name!r} for {len(grouped)} experts",
                expected="a name only where one expert is trained",
                do="Leave expert_name out, or name tasks of one expert",
            )
        return {name: next(iter(grouped.values()))}

    def expert_dir(self, name: str) -> pathlib.Path:
        """Returns where an expert goes when it is finished.

        Args:
          name: The expert's, or `seed<number>/<name>` of one of several trainings.
        """
        return self.path(f"{self.results.experts_dir}/{name}")

    def work_dir(self, name: str) -> pathlib.Path:
        """Returns where an expert's checkpoints and metrics lie while it trains."""
        home, target = self.path("{MODEL_DIR}"), self.path(self.results.experts_dir)
        return work_folders.of_expert(home, target, name)

    def spec(self) -> TrainingSpec:
        """Returns what is to be trained, resolved; reads no file.

        Raises:
          ConfigError: As `experts`, or `per_expert` fits no expert or no optimiser.
        """
        by_name = self.experts()
        expert_settings.check_patterns(self.per_expert, by_name)
        by_folder = seeds.by_folder(self.random_seed)
        base, library = self.initial_checkpoint_path, self.results.library_dir
        return TrainingSpec(
            kind=self.kind,
            experts={
                expert.name: expert
                for folder, seed in by_folder.items()
                for name in by_name
                for expert in [self._expert_spec(name, by_name[name], folder, seed)]
            },
            tasks=self.tasks,
            optimizer=self.optimizer,
            train_steps=self.train_steps,
            random_seed=next(iter(by_folder.values())),
            batch_size=self.batch_size,
            base_dir=self.path(base) if base else None,
            model=self.model,
            dropout_rate=self.dropout_rate,
            execution=self.execution,
            adapter=self.adapter,
            parts=self.expert_parts,
            batching=self.batching,
            placement=self.placement,
            fleet=self.fleet,
            saving=self.saving,
            metrics=self.metrics,
            data=self.data.placed(self.place),
            model_dir=self.path("{MODEL_DIR}"),
            experts_dir=self.expert_dir(""),
            work_dir=self.work_dir(""),
            publish_url=self.place(self.results.publish_url),
            library_dir=self.path(library) if library else None,
            num_shards=shards.parse(self.shard).count,
        )

    def _expert_spec(
        self, name: str, tasks: Iterable[str], folder: str, seed: int
    ) -> ExpertSpec:
        path = f"{folder}{name}"
        changes, of_optimizer = expert_settings.merge(self.per_expert, name)
        values = {
            "train_steps": self.train_steps,
            "random_seed": seed,
            "max_examples": self.batching.max_examples,
        }
        return ExpertSpec(
            name=path,
            expert_name=name,
            tasks=tuple(tasks),
            optimizer=expert_settings.optimizer_of(self.optimizer, of_optimizer, name),
            folder=self.expert_dir(path),
            work_dir=self.work_dir(path),
            **values | changes,
        )

    def plan(self) -> Plan:
        """Returns the plan for the devices of JAX; reads manifests, compiles nothing.

        Raises:
          ElmError: As `run` before it compiles, as far as no data is needed.
        """
        spec = self.spec()
        names = shards.parse(self.shard).choose(spec.experts)
        self._check_folder(spec, names)
        self.landing.check_unchanged(names)
        self.landing.check_free(names)
        part = f" of {len(spec.experts)} (shard {self.shard})" if self.shard else ""
        return {
            "experts": f"{len(names)}{part}: {', '.join(names)}",
            **self.landing.describe(names),
            "steps per expert": _show_range(
                expert.train_steps for expert in spec.experts.values()
            ),
            **cost_table.describe(spec),
            "files": f"{self.expert_dir('<expert>')}, {self.work_dir('<expert>')}",
        }

    def choose_devices(self) -> None:
        """Makes each core of a CPU a device, if a fleet is to train."""
        if self.spec().is_fleet:
            cpu_devices.request()

    @functools.cached_property
    def landing(self) -> landing.Landing:
        """The folders and buckets that finished experts go to."""
        return landing.Landing(self.spec())

    def run(self) -> None:
        """Trains what is not finished.

        Several runs may be given the same experts: each expert is trained by one of
        them, and the others wait for it. The processes of one run train each expert
        together, or the experts of a fleet apart (`work_sharing.train_share`).

        Raises:
          ElmError: Something a user can repair, if possible before compiling.
        """
        spec, land = self.spec(), self.landing
        names = shards.parse(self.shard).choose(spec.experts)
        self._check_folder(spec, names)
        land.check_possible(names)
        todo = processes.agree(land.unfinished(names))
        if len(todo) < len(names):
            print(f"finished already: {len(names) - len(todo)} of {len(names)}")  # noqa: T201
        self.choose_devices()
        train_all = None
        if todo:
            text = self.operative_config()
            train_all = schedule.make(spec, land.land, operative_config=text).train
        land.check_rows(names)
        is_apart = spec.is_fleet and processes.are_several()
        work = work_sharing.train_share if is_apart else work_sharing.train_unfinished
        failures = work(spec, land, names=names, todo=todo, train_all=train_all)
        work_sharing.raise_failures(failures, len(names))

    def _check_folder(self, spec: TrainingSpec, names: list[str]) -> None:
        """Raises ConfigError if something is to be trained and its data is missing."""
        data_options = spec.data.data_options
        if not data_folder.is_there(data_options) and self.landing.unfinished(names):
            experts = spec.experts.values()
            all_tasks = [task for expert in experts for task in expert.tasks]
            data_folder.check(data_options, all_tasks, ("train",))


def _show_range(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    least, most = ordered[0], ordered[-1]
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
