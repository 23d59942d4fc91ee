"""Result rows, the one form in which scores are kept, and what is said about them."""

import dataclasses
import hashlib
import json
import math
import operator
import typing
from collections.abc import Mapping

from elm_jax import errors, expert_kinds
from elm_jax.expert_kinds import Role

# A claim about a way to train is more than a claim about trainings from this many on.
LEAST_TRAININGS = 3

ROLES: tuple[Role, ...] = typing.get_args(Role)
"""In the order in which tables show them."""

# Names in tables of what reports make of the rows of others.
VIEWS = (
    *("best_single", "best_per_prompt", "oracle", "chance"),
    *("best_single_crossfit", "best_per_prompt_crossfit", "random_expert"),
    *("library_oracle", "shuffled_experts"),
)
# Names that no expert may have: up to release 0.1 rows told a strategy by it alone.
STRATEGIES = ("base", "multitask", "retrieved", "merged_top3", *VIEWS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """What a score is about: whose parameters, on which data, under which protocol.

    Attributes:
      expert: Name of the expert, or one of `STRATEGIES`.
      base_fingerprint: Fingerprint of the base model.
      expert_fingerprint: Fingerprint of the expert's training, or "" if nobody
        needs it. A retrained expert, or `retrieved` after the library grew, is
        scored again because this differs.
      task: Full name of the prompted task.
      dataset: The dataset the task belongs to; its prompts are averaged first.
      prompt: Name of the prompt within the dataset.
      split: Split of the dataset.
      protocol: How it is scored: whose rows, `elm` or `default`, and what else is not
        as usual, such as `elm+length_normalized`.
      seed: Seed of everything random in scoring, such as the choice of rows.
      checkpoint_step: Training steps behind the parameters.
      scoring: Hash of what else shapes a score: the rows scored and their content,
        length normalisation. "" if nobody needs it.
      settings: Hash of a strategy's options; "" for those that it has by default, and
        where there is no strategy.
    """

    expert: str
    base_fingerprint: str
    expert_fingerprint: str = ""
    task: str
    dataset: str
    prompt: str
    split: str
    protocol: str
    seed: int
    checkpoint_step: int
    scoring: str = ""
    settings: str = ""

    def key(self, metric: str) -> tuple[str | int, ...]:
        """Returns the identity of this cell's row for `metric`."""
        return (*_cell_values(self), metric)

    @property
    def digest(self) -> str:
        """16 hex digits that name this cell in file names."""
        names = [name for name in CELL_FIELDS if name != "settings" or self.settings]
        text = json.dumps([getattr(self, name) for name in names])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


CELL_FIELDS = tuple(field.name for field in dataclasses.fields(Cell))
_cell_values = operator.attrgetter(*CELL_FIELDS)
_STRATEGY_PLACE = (
    *("expert", "base_fingerprint", "task", "split", "metric", "settings", "protocol"),
    *("seed", "vocabulary", "training_seed"),
)
PLACE_FIELDS = (
    *("per_example_path", "per_example_offset", "per_example_length"),
    "per_example_record_sha256",
)
"""Of a row: where its per-example values lie, which says nothing about them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What a row tells of whose score it is and of the examples, for readers.

    None or "" where nobody told, as in files of earlier versions.

    Attributes:
      kind: The expert's kind, such as `prompt`, `multitask` or `merged`; `base` for
        the base, `strategy` for what chooses among experts.
      strategy: What kind of strategy gave the parameters, such as `retrieved`.
      strategy_note: What it is, in a few words.
      experts: Fingerprints of the experts that it used by name, the first one first.
      source: The expert's folder, relative to the store's; "" if it is none.
      training_seed: Seed of the expert's training; of a strategy's row that of all
        experts behind it, or of all that it could take if `library` is there.
      recipe: Hash of what the expert is trained on and how, its seed aside: equal for
        its trainings with several seeds.
      library: Hash of the recipes of all experts that a strategy could take, and of
        how they were asked: equal where only the training seed differs. "" if they
        are of several seeds.
      vocabulary: Fingerprint of the vocabulary of the tokens.
      data_fingerprint: Fingerprint of the tokens and texts that were scored.
      split_rows: Rows of the split, with those that were not scored.
      inputs_cut: Examples whose prompt was cut, in percent.
      undistinguished: Examples with choices that no model can tell apart, in percent.
      undistinguished_reasons: Number of these examples by reason.
      ties: Examples whose best score belongs to several answers, in percent.
      answers_cut: Written answers that had no end at the greatest length, in percent.
      overlap: Examples that are among the rows which the experts behind it were trained
        on, or nearly so, in percent; None where none of these rows were at hand, and
        for a base.
      overlap_unknown: Training tasks whose rows were not at hand to be compared.
      overlap_with: In percent, examples that are among other rows, or nearly: `base`,
        those that the base was trained on; of a strategy that asked a library,
        `queries`, those that asked, and `keys`, those behind the library's keys; and
        `queries in keys`, what of the queries is among the keys. None of rows that were
        not at hand, so that nothing was compared; empty where nothing was to be.
    """

    kind: str = ""
    strategy: str = ""
    strategy_note: str = ""
    experts: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    source: str = ""
    training_seed: int | None = None
    recipe: str = ""
    library: str = ""
    vocabulary: str = ""
    data_fingerprint: str | None = None
    split_rows: int | None = None
    inputs_cut: float | None = None
    undistinguished: float | None = None
    undistinguished_reasons: Mapping[str, int] = dataclasses.field(
        default_factory=dict, hash=False
    )
    ties: float | None = None
    answers_cut: float | None = None
    overlap: float | None = None
    overlap_unknown: int | None = None
    overlap_with: Mapping[str, float | None] = dataclasses.field(
        default_factory=dict, hash=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultRow(Facts, Cell):
    """One score; a line of JSON in a result store. Facts are no part of its key.

    Attributes:
      run_id: The run that wrote the row.
      metric: Name of the metric.
      value: The score; percent in [0, 100] for every metric of `metrics.METRICS`.
      num_examples: Number of examples behind the value, at least 1.
      per_example_path: File of per-example values, relative to the store's
        folder, or None.
      per_example_sha256: Hash of the values, the same wherever they lie, or None.
      per_example_offset: First byte of the record of these values in the file; None
        where the file has no others, as in files of earlier versions.
      per_example_length: Bytes of the record.
      per_example_record_sha256: Hash of the file's schema and the record.
    """

    run_id: str
    metric: str
    value: float
    num_examples: int
    per_example_path: str | None = None
    per_example_sha256: str | None = None
    per_example_offset: int | None = None
    per_example_length: int | None = None
    per_example_record_sha256: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or self.num_examples < 1:
            raise errors.DataError(
                found=f"{self.metric} = {self.value} over {self.num_examples}"
                f" examples, for {self.expert} on {self.task}",
                expected="a finite score over one or more examples",
                do="Check the split for examples and the expert's parameters",
            )

    @property
    def role(self) -> Role:
        """What its parameters are; rows of release 0.1 tell it by their name alone."""
        if self.kind or self.expert not in STRATEGIES:
            return expert_kinds.role(self.kind)
        names: dict[str, Role] = {"base": "base", "multitask": "multitask"}
        return names.get(self.expert, "strategy")

    @property
    def strategy_place(self) -> tuple[object, ...] | None:
        """What a strategy's newest row counts for; None of a row of no strategy.

        It is all but what the strategy chose, and from which library.
        """
        if self.role != "strategy":
            return None
        return tuple(getattr(self, name) for name in _STRATEGY_PLACE)

    @property
    def is_choice(self) -> bool:
        """Whether a strategy chose one expert for the task."""
        if self.role != "strategy":
            return False
        if self.strategy:
            return [*self.experts.values()] == [self.expert_fingerprint]
        return self.expert == "retrieved"  # up to release 0.1 no other one chose

    @property
    def is_expert(self) -> bool:
        """Whether it is of an expert's own parameters, merged and multitask ones too.

        And so not of the base, nor of what chooses an expert for each task.
        """
        if self.kind:
            return self.role not in ("base", "strategy")
        return self.expert not in STRATEGIES  # rows of release 0.1 tell no kind

    @property
    def is_single_expert(self) -> bool:
        """Whether it may be chosen as best single expert or oracle: of one training.

        Merged experts are a method's result, multitask models the baseline, and what
        was trained on the rows that choose is a control.
        """
        return self.is_expert and self.role == "expert"

    def to_json(self) -> str:
        """Returns the row as one line of JSON, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with an interval around it.

    Attributes:
      mean: The point estimate, in the unit of the scores.
      low: Lower end, or NaN where the data cannot tell.
      high: Upper end, or NaN where the data cannot tell.
      num_rows: Number of dataset rows behind it; 0 for a known constant.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    num_rows: int = 0

    def __format__(self, spec: str) -> str:
        """Formats every number by `spec`.

        >>> f"{Interval(61.25, 58.0, 64.5):.1f}"
        '61.2 [58.0, 64.5]'
        """
        mean = format(self.mean, spec)
        if math.isnan(self.low) or math.isnan(self.high):
            return mean
        return f"{mean} [{format(self.low, spec)}, {format(self.high, spec)}]"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement about results, whether it holds, and the numbers behind it.

    Attributes:
      title: The statement, as one sentence.
      holds: True, False, or None where the data cannot decide.
      evidence: The numbers, in words.
      num_trainings: Training seeds behind it; None if it is not about trainings.
    """

    title: str
    holds: bool | None
    evidence: str
    num_trainings: int | None = None

    @property
    def verdict(self) -> str:
        """Whether it holds, in words: of how many trainings, if these are too few.

        >>> Claim("A beats B", True, "", num_trainings=1).verdict
        'holds in this training'
        >>> Claim("A beats B", False, "", num_trainings=2).verdict
        'does not hold in these 2 trainings'
        >>> Claim("A beats B", True, "", num_trainings=3).verdict
        'holds'
        """
        words = {True: "holds", False: "does not hold", None: "undecided"}[self.holds]
        number = self.num_trainings
        if self.holds is None or number is None or number >= LEAST_TRAININGS:
            return words
        trainings = "this training" if number == 1 else f"these {number} trainings"
        return f"{words} in {trainings}"
