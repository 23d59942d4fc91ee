"""Parts of a training that shape no name of its own: each checks itself."""

import dataclasses

from elm_jax import fields, paths
from elm_jax.runs import placement
from elm_jax.training import signals, trackers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """Which examples are trained on, and how they are put into batches.

    Attributes:
      max_examples: Cap per task, drawn by the seed; 0 for all.
      num_shapes: Length buckets; each is a compilation, and fewer pad more.
      pack: Several examples per row instead of length buckets; `batch_size` then
        counts rows, up to twice as long as the features, chosen by the data.
      num_parts: In how many parts a batch is computed, one after another, for less
        memory; its update is that of the whole batch, but for rounding and the values
        that dropout drops. 0 for the number that is fastest of those that fit.
    """

    max_examples: fields.CountOrNone = 0
    num_shapes: fields.Count = 4
    pack: bool = False
    num_parts: fields.CountOrNone = 1

    def __post_init__(self) -> None:
        """Raises ConfigError for a field that holds what it may not."""
        fields.check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """How experts of a frozen base train side by side in one program.

    Attributes:
      size: Experts at a time, if there are several; of joined processes each has as
        many, of its own share. 0 trains them one after another, each with all devices
        of all processes.
      lanes: Experts whose steps a device computes as one batch; 0 for 1 on CPUs, which
        one expert keeps busy, and 8 elsewhere, or as many as fit.
      device_memory_gib: Memory of a device, by which the base is kept whole on each
        device or split over some; 0 asks the device.
    """

    size: fields.CountOrNone = 16
    lanes: fields.CountOrNone = 0
    device_memory_gib: fields.NotNegative = 0.0

    def __post_init__(self) -> None:
        """Raises ConfigError for a field that holds what it may not."""
        fields.check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saving:
    """When states are saved that a run which was killed or stopped goes on from.

    Attributes:
      every_steps: Period of the checkpoints.
      keep_last: How many of the newest are kept until the expert is there.
      keep_every_steps: Those after a multiple of so many steps are kept for good, in
        `state` in the expert's work folder, `{MODEL_DIR}/work/<folder>/<name>`, where
        <folder> is that of `experts_dir` in MODEL_DIR; 0 for none.
      stop_grace_secs: Time in which SIGTERM and SIGINT must be answered. A step that
        takes longer is given up; where steps take half as long, each is saved.
      resume_changed_config: Whether to resume a run whose configuration differs, and
        to keep finished experts of another one.
    """

    every_steps: fields.Count = 1000
    keep_last: fields.Count = 1
    keep_every_steps: fields.CountOrNone = 0
    stop_grace_secs: fields.Seconds = signals.GRACE_SECS
    resume_changed_config: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError if states that are to be kept are not saved."""
        fields.check(self)
        wrong = {}
        if self.keep_every_steps % self.every_steps:
            wrong["keep_every_steps"] = "a multiple of every_steps, or 0"
        fields.refuse(self, wrong)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics that a training writes, and how often.

    Attributes:
      every_steps: Period of the metrics.
      profile_steps: `(first, last)`: an XProf trace of the steps between them goes to
        `profile` in the expert's work folder; the first step compiles.
      trackers: Where metrics go beside files: `trackio`, `wandb` (Weights & Biases);
        each is an extra.
      tracker_project: Name of the trackers' project.
    """

    every_steps: fields.Count = 50
    profile_steps: tuple[fields.Count, ...] = ()
    trackers: tuple[str, ...] = ()
    tracker_project: paths.Name = "elm_jax"

    def __post_init__(self) -> None:
        """Raises ElmError unless steps are a range and trackers are installed."""
        fields.check(self)
        trackers.check(self.trackers)
        wrong, steps = {}, self.profile_steps
        if steps and not (len(steps) == 2 and steps[0] < steps[1]):
            wrong["profile_steps"] = "(first, last) with 1 <= first < last, or ()"
        fields.refuse(self, wrong)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """The folders and buckets that finished experts go to.

    Attributes:
      experts_dir: Folder in which each gets one of its own.
      expert_name: Name of the result, for a run of one expert; by default that of
        its task, its dataset or its kind.
      publish_url: A bucket's folder, such as `gs://bucket/path`, that gets a copy of
        each as it lands; those that are there count as finished. "": none.
      library_dir: Catalogue that gets a line as each lands, without keys; "": none.
    """

    experts_dir: paths.Path = "{MODEL_DIR}/experts"
    expert_name: paths.OptionalName = ""
    publish_url: paths.OptionalPlace = ""
    library_dir: paths.OptionalPath = ""

    def __post_init__(self) -> None:
        """Raises ConfigError for a field that holds what it may not."""
        fields.check(self)


MOVED = {
    **{name: f"batching.{name}" for name in ("max_examples", "num_shapes", "pack")},
    **placement.MOVED,
    "fleet_size": "fleet.size",
    "fleet_lanes": "fleet.lanes",
    "device_memory_gib": "fleet.device_memory_gib",
    "save_every_steps": "saving.every_steps",
    **{
        name: f"saving.{name}"
        for name in (
            *("keep_last", "keep_every_steps", "stop_grace_secs"),
            "resume_changed_config",
        )
    },
    "log_every_steps": "metrics.every_steps",
    "profile_steps": "metrics.profile_steps",
    **{
        name: f"results.{name}"
        for name in ("experts_dir", "expert_name", "publish_url", "library_dir")
    },
}
"""Fields that a training had itself before release 0.2, and where they are now."""
