"""elm_train: experts, side by side or one by one, a multitask baseline or a base."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import jax

from elm_jax import errors, fields, paths
from elm_jax.checkpoints import manifest
from elm_jax.data import shapes
from elm_jax.data import tasks as task_registry
from elm_jax.disk import folders
from elm_jax.evaluation import naming
from elm_jax.model import config, t5
from elm_jax.partitioning import cpu_devices, processes
from elm_jax.peft import adapters
from elm_jax.peft import experts as expert_kinds
from elm_jax.runs import (
    bases,
    data_doubts,
    data_folder,
    expert_settings,
    fleet,
    fleet_layout,
    landing,
    mixing,
    moved_fields,
    shards,
    task_data,
    trainer,
    turns,
    vocabularies,
    work_folders,
)
from elm_jax.runs.placement import MOVED, Placement
from elm_jax.runs.run import Plan, Run
from elm_jax.training import optimizers, signals

Kind = Literal["base", "prompt", "dataset", "multitask"]


@moved_fields.takes_old_names(MOVED)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Run):
    """Trains one expert per task, or a base, into `<experts_dir>/<name>`.

    Experts that are finished are skipped, unfinished ones resume, so that the same
    command can be given again after any interruption.

    Attributes:
      kind: What comes out: a `prompt`, `dataset` or `multitask` expert of a base, or
        a `base` from scratch by span corruption.
      tasks: Names or patterns of tasks and mixtures. Prompt experts are trained one
        for each task, dataset experts one for each dataset among the tasks, and the
        other kinds are one model for all of them.
      max_examples: Cap per task, drawn by the seed; 0 for all.
      data: Vocabulary, lengths and folders of the tasks' tokens.
      optimizer: Its schedule runs over `train_steps`.
      train_steps: Updates per expert.
      batch_size: Examples per update, over all devices.
      initial_checkpoint_path: Folder of the base; not for kind `base`.
      model: Shape of a base trained from scratch; experts take their base's.
      adapter: What experts add to the base, if `expert_parts` has adapters.
      expert_parts: A name in `peft.experts.PARTS`; by default `adapters_and_norms`
        for prompt experts, else `all`.
      experts_dir: Where finished experts go.
      publish_url: A bucket's folder, such as `gs://bucket/path`, that gets a copy of
        each as it lands; those that are there count as finished. "": none.
      library_dir: Catalogue that gets a line as each lands, without keys; "": none.
      expert_name: Name of the result, for a run of one expert; by default that of
        its task, its dataset or its kind.
      shard: `i/n` trains part i, from 0, of the experts dealt out by name to n
        machines; "" trains all.
      dropout_rate: Fraction in [0, 1), while training.
      num_shapes: Length buckets; each is a compilation, and fewer pad more.
      pack: Several examples per row instead of length buckets; `batch_size` then
        counts rows, up to twice as long as the features, chosen by the data.
      placement: How parameters and batches lie over the devices.
      execution: How the model is computed, where it is not as the base records.
      random_seed: Of initialisation, batches and dropout.
      per_expert: Settings of experts whose names fit a pattern, where they differ
        from the run's; later patterns win.
      fleet_size: Experts of a frozen base that train side by side in one program, if
        there are several; of joined processes each has as many, of its own share. 0
        trains them one after another, each with all devices of all processes.
      fleet_lanes: Experts whose steps a device computes as one batch; 0 for 1 on
        CPUs, which one expert keeps busy, and 8 elsewhere, or as many as fit.
      device_memory_gib: Memory of a device, by which a fleet's base is kept whole on
        each device or split over some; 0 asks the device.
      save_every_steps: Period of the checkpoints that a killed run resumes from.
      keep_last: How many of the newest of those are kept until the expert is there.
      keep_every_steps: Those after a multiple of so many steps are kept for good, in
        `state` in the expert's work folder, `{MODEL_DIR}/work/<folder>/<name>`, where
        <folder> is that of `experts_dir` in MODEL_DIR; 0 for none.
      log_every_steps: Period of the metrics.
      profile_steps: `(first, last)`: an XProf trace of the steps between them goes to
        `profile` in its work folder; the first step compiles.
      stop_grace_secs: Time in which SIGTERM and SIGINT must be answered. A step that
        takes longer is given up; where steps take half as long, each is saved.
      resume_changed_config: Whether to resume a run whose configuration differs, and
        to keep finished experts of another one.
    """

    can_share_work: ClassVar[bool] = True

    kind: Kind
    tasks: str | tuple[str, ...]
    data: task_data.TaskData
    optimizer: optimizers.AdamW | optimizers.Adafactor
    train_steps: fields.Count
    batch_size: fields.Count
    max_examples: fields.CountOrNone = 0
    initial_checkpoint_path: paths.OptionalPath = ""
    model: config.T5Config | None = None
    adapter: adapters.AdapterSpec | None = None
    expert_parts: str = ""
    experts_dir: paths.Path = "{MODEL_DIR}/experts"
    publish_url: paths.OptionalPlace = ""
    library_dir: paths.OptionalPath = ""
    expert_name: paths.OptionalName = ""
    shard: str = ""
    dropout_rate: fields.ShareBelowOne = 0.0
    num_shapes: fields.Count = 4
    pack: bool = False
    placement: Placement = Placement()
    execution: config.Execution = config.Execution()
    random_seed: fields.Seed = 42
    per_expert: Mapping[str, expert_settings.ExpertSettings] = dataclasses.field(
        default_factory=dict
    )
    fleet_size: fields.CountOrNone = 16
    fleet_lanes: fields.CountOrNone = 0
    device_memory_gib: fields.NotNegative = 0.0
    save_every_steps: fields.Count = 1000
    keep_last: fields.Count = 1
    keep_every_steps: fields.CountOrNone = 0
    log_every_steps: fields.Count = 50
    profile_steps: tuple[fields.Count, ...] = ()
    stop_grace_secs: fields.Seconds = signals.GRACE_SECS
    resume_changed_config: bool = False

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other."""
        wrong = {}
        if self.profile_steps and not _is_range(self.profile_steps):
            wrong["profile_steps"] = "(first, last) with 1 <= first < last, or ()"
        if self.keep_every_steps % self.save_every_steps:
            wrong["keep_every_steps"] = "a multiple of save_every_steps, or 0"
        if (self.kind == "base") != (self.model is not None):
            wrong["model"] = "a shape for kind base, and for no other"
        if (self.kind == "base") == bool(self.initial_checkpoint_path):
            wrong["initial_checkpoint_path"] = "a base's folder, unless kind is base"
        if (expert_kinds.ADAPTERS in self.pattern) != (self.adapter is not None):
            wrong["adapter"] = "a spec if adapters train, and only then"
        if self.kind == "base" and self.expert_parts not in ("", "all"):
            wrong["expert_parts"] = "all for kind base"
        if self.dropout_rate and self.execution.attention in ("dot_product", "cudnn"):
            wrong["dropout_rate"] = "0, as fused attention drops no weights"
        naming.check_is_no_label(self.expert_name, self.kind)
        shards.parse(self.shard)
        fields.refuse(self, wrong, of_kind=f"of kind {self.kind!r}")

    def experts(self) -> dict[str, list[str]]:
        """Returns the tasks of each expert to be, by the expert's name.

        Raises:
          ConfigError: A task is unknown, or `expert_name` does not fit their number.
        """
        registry = task_registry.registry
        found: dict[str, list[str]] = {}
        for name in registry.expand(self.tasks):
            dataset = getattr(registry.task(name), "dataset", name)
            owner = {"prompt": name, "dataset": dataset}.get(self.kind, self.kind)
            found.setdefault(owner, []).append(name)
        if not self.expert_name:
            return found
        if len(found) > 1:
            raise errors.ConfigError(
                found=f"expert_name {self.expert_name!r} for {len(found)} experts",
                expected="a name only where one expert is trained",
                do="Leave expert_name out, or name tasks of one expert",
            )
        return {self.expert_name: next(iter(found.values()))}

    def expert_dir(self, name: str) -> pathlib.Path:
        """Returns where an expert goes when it is finished."""
        return self.path(f"{self.experts_dir}/{name}")

    def work_dir(self, name: str) -> pathlib.Path:
        """Returns where an expert's checkpoints and metrics lie while it trains."""
        home, target = self.path("{MODEL_DIR}"), self.path(self.experts_dir)
        return work_folders.of_expert(home, target, name)

    def plan(self) -> Plan:
        """Returns the resolved plan; reads manifests, compiles nothing.

        Raises:
          ElmError: As `run` before it compiles, as far as no data is needed.
        """
        names = self.experts()
        settings = self._settings(names)
        own = shards.parse(self.shard).choose(names)
        self._check_folder(names, own)
        self.landing.check_unchanged(own)
        self.landing.check_free(own)
        part = f" of {len(names)} (shard {self.shard})" if self.shard else ""
        return {
            "experts": f"{len(own)}{part}: {', '.join(own)}",
            **self.landing.describe(own),
            "steps per expert": _show_range(each.train_steps for each in settings),
            **fleet_layout.describe_run(self),
            "files": f"{self.expert_dir('<expert>')}, {self.work_dir('<expert>')}",
        }

    @property
    def is_fleet(self) -> bool:
        """Whether experts train side by side.

        It depends on the whole list of experts, not on what of it is left, so that a
        run that was killed goes on as it began. Joined processes are dealt shares of
        the list, and each trains its share as a fleet of its own, on its own devices;
        what is no fleet they train together.
        """
        shares_base = self.pattern != expert_kinds.DATASET_EXPERT
        is_whole = self.placement.axis_rules in ("data", "data_model")
        several = shares_base and is_whole and len(self.experts()) > 1
        return bool(self.fleet_size) and several

    @property
    def num_slots(self) -> int:
        """How many experts of a fleet train at a time, in the largest of its shares."""
        shares = shards.parse(self.shard).count * processes.count()
        return min(self.fleet_size, -(-len(self.experts()) // shares))

    @property
    def num_lanes(self) -> int:
        """How many experts' steps a device computes as one batch, if they fit."""
        return self.fleet_lanes or (1 if jax.default_backend() == "cpu" else 8)

    def of_expert(self, name: str) -> "Train":
        """Returns this run with the settings of one expert in place of its own."""
        return expert_settings.applied_to(self, name)

    @property
    def pattern(self) -> str:
        """Which parameters train."""
        default = "adapters_and_norms" if self.kind == "prompt" else "all"
        return expert_kinds.trainable_pattern(self.expert_parts or default)

    def is_finished(self, name: str) -> bool:
        """Returns whether the expert is in its folder already."""
        return (self.expert_dir(name) / manifest.FILE_NAME).is_file()

    def model_config(self) -> config.T5Config:
        """Returns the shape of the model that trains."""
        shape = self.model
        if shape is None:
            folder = self.path(self.initial_checkpoint_path)
            shape = bases.model_config(bases.read_manifest(folder))
        return dataclasses.replace(shape, dropout_rate=float(self.dropout_rate))

    def open_data(self) -> task_data.OpenedData:
        """Returns vocabulary, lengths and folders, held against base and model.

        Raises:
          FingerprintError: The base was trained with another vocabulary.
          ConfigError: The vocabulary has more ids than the model.
        """
        data = self.data.opened(self.place)
        if self.initial_checkpoint_path:
            folder = self.path(self.initial_checkpoint_path)
            vocabularies.check(bases.read_manifest(folder), data.vocabulary)
        else:
            vocabularies.check_size(self.model_config().vocab_size, data.vocabulary)
        return data

    def build_model(self) -> t5.T5:
        """Returns the network that trains, computed as `execution` says."""
        shape = self.execution.applied_to(self.model_config())
        return bases.build_model(shape, self.adapter)

    def choose_devices(self) -> None:
        """Makes each core of a CPU a device, if a fleet is to train."""
        if self.is_fleet:
            cpu_devices.request()

    def run(self) -> None:
        """Trains what is not finished.

        Several runs may be given the same experts: each expert is trained by one of
        them, and the others wait for it. The processes of one run train each expert
        together, or the experts of a fleet apart (`turns.train_share`).

        Raises:
          ElmError: Something a user can repair, if possible before compiling.
        """
        names = self.experts()
        self._settings(names)
        own = shards.parse(self.shard).choose(names)
        self._check_folder(names, own)
        self.landing.publisher.check(own)
        self.landing.check_unchanged(own)
        self.landing.check_free(own)
        todo = processes.agree(self.landing.unfinished(own))
        if len(todo) < len(own):
            print(f"finished already: {len(own) - len(todo)} of {len(own)}")  # noqa: T201
        train_all = self._prepare(names) if todo else None
        self.landing.check_rows(own)
        is_apart = self.is_fleet and processes.are_several()
        way = turns.train_share if is_apart else turns.train_free
        fleet.raise_failures(way(self, own, todo, train_all), len(own))

    @functools.cached_property
    def landing(self) -> landing.Landing:
        """Where finished experts go."""
        return landing.Landing(self)

    def _settings(self, names: Iterable[str]) -> "list[Train]":
        """Returns the run of each expert, and raises ConfigError if one is wrong."""
        names = list(names)
        expert_settings.check_patterns(self.per_expert, names)
        return [self.of_expert(name) for name in names]

    def _check_folder(self, names: Mapping[str, list[str]], own: list[str]) -> None:
        """Raises ConfigError if something is to be trained and its data is missing."""
        places = self.data.places(self.place)
        if not data_folder.is_there(places) and self.landing.unfinished(own):
            every = [task for some in names.values() for task in some]
            data_folder.check(places, every, ("train",))

    def _prepare(self, names: Mapping[str, list[str]]) -> turns.TrainAll:
        """Returns what trains some of all experts, and then those that failed."""
        self.choose_devices()
        data = self.open_data()
        if self.initial_checkpoint_path:
            folder = self.path(self.initial_checkpoint_path)
            vocabularies.warn_if_unknown(bases.read_manifest(folder))
        shared = trainer.Trainer(self, data)
        for folder in (self.expert_dir(""), self.work_dir("")):
            folders.check_writable(folder)
        # All caches first: a task that cannot be read is told before any training,
        # and shapes must not depend on the shard or on what is finished already.
        with processes.main_first("token caches"):
            examples = {
                name: [data.open(task, "train") for task in tasks]
                for name, tasks in names.items()
            }
        data_doubts.check(d for some in examples.values() for d in some)
        mixing.check_rates(self, examples)
        every = [] if self.kind == "base" else [d for e in examples.values() for d in e]
        count = 0 if self.pack else self.num_shapes
        common = self.data.common_shapes(every, num_shapes=count)
        train_all = self._train_fleet if self.is_fleet else self._train_each
        return lambda some: train_all(shared, some, examples, common)

    def _train_fleet(
        self,
        shared: trainer.Trainer,
        names: Sequence[str],
        examples: Mapping[str, trainer.Examples],
        common: Sequence[shapes.Shape],
    ) -> dict[str, errors.ElmError]:
        crew = fleet.FleetTrainer(self, shared, self.landing.land)
        return crew.train(names, examples, common) if names else {}

    def _train_each(
        self,
        shared: trainer.Trainer,
        names: Sequence[str],
        examples: Mapping[str, trainer.Examples],
        common: Sequence[shapes.Shape],
    ) -> dict[str, errors.ElmError]:
        failures: dict[str, errors.ElmError] = {}
        for number, name in enumerate(names, 1):
            print(f"expert {number}/{len(names)}: {name}")  # noqa: T201
            try:
                result = shared.train(name, examples[name], common)
            except errors.TrainingError as error:
                failures[name] = error
                continue
            if result is not None:  # else the first process has it
                self.landing.land(name, result)
        return failures


def _show_range(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    least, most = ordered[0], ordered[-1]
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _is_range(steps: tuple[int, ...]) -> bool:
    return len(steps) == 2 and 1 <= steps[0] < steps[1]
