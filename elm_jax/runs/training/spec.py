"""What is to be trained, resolved: paths are absolute, every expert has its values."""

import dataclasses
import pathlib
from collections.abc import Mapping

from elm_jax import errors, expert_kinds, trees
from elm_jax.checkpoints import manifest
from elm_jax.model import config, cost, int8_kernels, t5
from elm_jax.peft import adapters, expert_parts
from elm_jax.runs import bases, task_data, vocabularies
from elm_jax.runs.placement import Placement
from elm_jax.runs.training import kinds, options
from elm_jax.training import optimizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertSpec:
    """One expert to be trained: the settings that may differ between experts.

    Attributes:
      name: Of this training, unique: the expert's, below `seed<number>/` where each
        expert is trained with several seeds.
      expert_name: Of the expert, the same for all seeds.
      tasks: Those that it is trained on.
      optimizer: With the expert's own rates.
      train_steps: Updates.
      random_seed: Of initialisation, batches and dropout.
      max_examples: Cap per task; 0 for all.
      folder: Where it goes when it is finished.
      work_dir: Where its states and metrics lie while it trains.
    """

    name: str
    expert_name: str
    tasks: tuple[str, ...]
    optimizer: optimizers.AdamW | optimizers.Adafactor
    train_steps: int
    random_seed: int
    max_examples: int
    folder: pathlib.Path
    work_dir: pathlib.Path

    @property
    def is_finished(self) -> bool:
        """Whether the expert is in its folder already."""
        return (self.folder / manifest.FILE_NAME).is_file()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """A whole training: what its experts share, and each of them.

    Attributes:
      kind: Of the experts.
      experts: All trainings of them by name, also those that other machines train.
      tasks: Names or patterns of tasks and mixtures, which may limit their tasks.
      optimizer: Of the run; programs are compiled for it, whatever the experts' rates.
      train_steps: Steps of the run; experts may have other numbers.
      random_seed: Seed of the run; experts may have others.
      batch_size: Examples per update, over all devices.
      base_dir: Folder of the base that experts start from; None from scratch.
      model: Shape of a model from scratch; None for the base's.
      dropout_rate: Fraction in [0, 1), while training.
      execution: How the model is computed, where it is not as the base records.
      adapter: What experts add to the base.
      parts: Which parts train, as the run says; "" for what is usual for the kind.
      batching: How examples are put into batches.
      placement: How parameters and batches lie over the devices.
      fleet: How experts train side by side.
      saving: When states are saved.
      metrics: What is told of the steps.
      data: Vocabulary, lengths and folders of the tasks' tokens.
      model_dir: The run's work folder.
      experts_dir: Folder of the finished experts.
      work_dir: Folder of the experts' work folders.
      publish_url: Of the bucket that gets finished experts; "" for none.
      library_dir: Of the catalogue that lists them; None for none.
      num_shards: Machines that the experts are dealt out to.
    """

    kind: expert_kinds.TrainedKind
    experts: Mapping[str, ExpertSpec]
    tasks: str | tuple[str, ...]
    optimizer: optimizers.AdamW | optimizers.Adafactor
    train_steps: int
    random_seed: int
    batch_size: int
    base_dir: pathlib.Path | None
    model: config.T5Config | None
    dropout_rate: float
    execution: config.Execution
    adapter: adapters.AdapterSpec | None
    parts: str
    batching: options.Batching
    placement: Placement
    fleet: options.Fleet
    saving: options.Saving
    metrics: options.Metrics
    data: task_data.PlacedData
    model_dir: pathlib.Path
    experts_dir: pathlib.Path
    work_dir: pathlib.Path
    publish_url: str
    library_dir: pathlib.Path | None
    num_shards: int

    @property
    def trainable_pattern(self) -> str:
        """Which parameters train, as a pattern of their names."""
        return trainable_pattern_of(self.kind, self.parts)

    @property
    def is_fleet(self) -> bool:
        """Whether experts train side by side.

        It depends on the whole list of experts, not on what of it is left, so that a
        run that was killed goes on as it began. Joined processes are dealt shares of
        the list, and each trains its share as a fleet of its own, on its own devices;
        what is no fleet they train together.
        """
        shares_base = self.trainable_pattern != expert_parts.DATASET_EXPERT
        rules = self.placement.axis_rules
        is_whole = rules in ("data", "data_model", config.FIT)
        several = shares_base and is_whole and len(self.experts) > 1
        return bool(self.fleet.size) and several

    def model_config(self) -> config.T5Config:
        """Returns the shape of the model that trains; reads that of a base.

        Raises:
          CheckpointError: The base's manifest cannot be read.
          ConfigError: Matrices would train that the base holds as int8.
        """
        shape = self.model
        if self.base_dir is not None:
            shape = bases.model_config(bases.read_manifest(self.base_dir))
        assert shape is not None
        if shape.base_dtype and not kinds.KINDS[self.kind].makes_base:
            _check_is_frozen(shape, self.trainable_pattern)
        return dataclasses.replace(shape, dropout_rate=float(self.dropout_rate))

    def longest_batch(self) -> cost.BatchShape:
        """Returns the shape of a batch of the longest inputs and targets.

        Packed rows may be twice as long as the features (`data.packing`).
        """
        features, times = self.data.options.features, 2 if self.batching.pack else 1
        return cost.BatchShape(
            batch_size=self.batch_size,
            inputs_length=times * features.inputs_length,
            targets_length=times * features.targets_length,
        )

    def build_model(self) -> t5.T5:
        """Returns the network that trains, computed as `execution` says."""
        shape = self.execution.applied_to(self.model_config())
        return bases.build_model(shape, self.adapter)

    def open_data(self) -> task_data.OpenedData:
        """Returns vocabulary, lengths and folders, held against base and model.

        Raises:
          FingerprintError: The base was trained with another vocabulary.
          ConfigError: The vocabulary has more ids than the model.
        """
        data = self.data.opened()
        if self.base_dir is not None:
            vocabularies.check(bases.read_manifest(self.base_dir), data.vocabulary)
        else:
            vocabularies.check_size(self.model_config().vocab_size, data.vocabulary)
        return data


def _check_is_frozen(shape: config.T5Config, pattern: str) -> None:
    """Raises ConfigError if a parameter trains that is no float in the base."""
    trains, _ = trees.split(t5.param_shapes(t5.T5(shape)), pattern)
    wrong = [name for name in trees.flatten(trains) if int8_kernels.is_held(name)]
    if wrong:
        raise errors.ConfigError(
            found=f"a base with base_dtype = {shape.base_dtype!r}, and {len(wrong)}"
            f" matrices of it that would train, such as {wrong[0]}",
            expected="experts of adapters and norms: int8 values have no gradients",
            do="Name a base whose base_dtype is '', or set expert_parts to what trains"
            " no matrix of the base, such as adapters_and_norms",
        )


def trainable_pattern_of(kind: expert_kinds.TrainedKind, parts: str) -> str:
    """Returns the pattern of the parameters that train.

    Args:
      kind: Of the experts.
      parts: A name in `peft.expert_parts.PARTS`; "" for what is usual for the kind.

    Raises:
      ConfigError: There are no such parts.
    """
    return expert_parts.trainable_pattern(parts or kinds.KINDS[kind].parts)
