"""What a strategy is: a value that gives the parameters that are scored on a task.

A strategy of your own is a frozen dataclass that extends `LibraryStrategy` (or
`Strategy`, if it asks no library), in a module that the gin file imports.
"""

import abc
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, NamedTuple

from elm_jax import fields, paths
from elm_jax.checkpoints import manifest
from elm_jax.merging import averages
from elm_jax.merging.method import MergeMethod
from elm_jax.model import config
from elm_jax.runs import candidates, queries
from elm_jax.runs import measuring as measuring_lib


class Target(NamedTuple):
    """A task for which a strategy gives parameters.

    Attributes:
      task: The task's name.
      path: Makes an absolute path of a text; `Run.path`.
      question: How the task asked the library, with the rows that did and the votes;
        None for strategies that need none.
    """

    task: str
    path: Callable[[str], pathlib.Path]
    question: queries.Question | None = None


class Choice(NamedTuple):
    """Experts that a strategy takes from a library.

    Attributes:
      experts: Their names, the most important one first; none for the base.
      method: How they are merged.
      measuring: On which rows they are measured, for a method that needs statistics.
    """

    experts: tuple[str, ...]
    method: MergeMethod = averages.Uniform()
    measuring: measuring_lib.Measuring | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strategy(abc.ABC):
    """A rule that gives the parameters for a task."""

    kind: ClassVar[str]
    """What result rows call this kind of strategy."""
    pads_adapters: ClassVar[bool] = False
    """Whether adapters of experts that it puts together may differ in width."""
    needs_library: ClassVar[bool] = False
    """Whether it needs the votes of a library, and the unlabelled rows that vote."""

    def __post_init__(self) -> None:
        """Raises ConfigError for an option with a value that it cannot have."""
        fields.check(self)

    @property
    def merges(self) -> bool:
        """Whether it may merge experts, which then have to be alike."""
        return False

    def check_experts(self, infos: Sequence[manifest.Manifest]) -> None:
        """Raises an ElmError for experts that it cannot put together.

        Args:
          infos: Of all that a library has.
        """
        del infos

    def looks_at(self, question: queries.Question) -> Collection[str]:
        """Returns the experts whose answers to the rows that ask it needs.

        They are then in `question.behaviour`; see `behaviour_scores`.
        """
        del question
        return ()

    def num_looked_at(self, num_experts: int) -> int:
        """Returns how many of a library's experts these are at most, for plans."""
        del num_experts
        return 0

    def num_members(self, num_experts: int) -> int:
        """Returns how many of a library's experts are scored for it at most.

        They are scored on all rows, as experts of their own; see `pools.AnswerPool`.
        """
        del num_experts
        return 0

    @property
    def scores_rows(self) -> bool:
        """Whether it scores experts itself, by `question.score_rows`, as it chooses."""
        return False

    @property
    def reads_inputs(self) -> bool:
        """Whether it scores experts on inputs, by `question.missing_spans`."""
        return False

    @property
    def reads_labels(self) -> bool:
        """Whether it chooses by labels of the rows that ask, so that none is scored."""
        return False

    @property
    def needs_choices(self) -> bool:
        """Whether what it looks at are answer choices, which some tasks have not."""
        return False

    def costs(self, shape: config.T5Config, infos: Sequence[manifest.Manifest]) -> str:
        """Returns what it adds to the work of a model, for plans; "" for nothing.

        Args:
          shape: The base's shape.
          infos: The manifests of the library's experts.
        """
        del shape, infos
        return ""

    def added_share(
        self, shape: config.T5Config, infos: Sequence[manifest.Manifest]
    ) -> float:
        """Returns what it adds to a model's operations, as a share of the base's.

        The arguments are those of `costs`. What does not count may be left out.
        """
        del shape, infos
        return 0.0

    @abc.abstractmethod
    def choose(self, target: Target) -> candidates.Candidate:
        """Returns what is to be scored on a task.

        Raises:
          ElmError: There is nothing for this task.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class LibraryStrategy(Strategy):
    """Experts that a library gives for a task.

    Attributes:
      name: What result rows and reports call it; "" for `default_name`.
    """

    needs_library: ClassVar[bool] = True
    name: paths.OptionalName = ""

    @property
    def reads_votes(self) -> bool:
        """Whether it reads votes or vectors, for which rows have to be embedded."""
        return True

    @property
    def label(self) -> str:
        """The name that result rows give it."""
        return self.name or self.default_name

    @property
    def default_name(self) -> str:
        """Its name where the run gives it none."""
        return self.kind

    @property
    def note(self) -> str:
        """A description in a few words; "" leaves it to the report."""
        return ""

    @property
    def settings(self) -> str:
        """Hash of its options, 8 hex digits; "" if they are those by default.

        Options that have their default are left out: a new option changes no hash.
        """
        options = self._told_options()
        if not options:
            return ""
        text = json.dumps(options, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def _told_options(self) -> dict[str, Any]:
        """Returns what `settings` is a hash of."""
        options = options_of(self)
        options.pop("name", None)
        return options

    def choose(self, target: Target) -> candidates.Candidate:
        """Returns the experts that it takes from the library, merged."""
        question = target.question
        assert question is not None  # noqa: S101 - it says that it needs the library
        choice = self.pick(question)
        if choice.experts:
            choice.method.check(len(choice.experts))
        return candidates.Candidate(
            self.label,
            tuple(question.experts[name] for name in choice.experts),
            "strategy",
            choice.method,
            self._source(choice, target),
            strategy=self.kind,
            settings=self.settings,
            note=self.note,
            library=question.library,
            library_seed=question.training_seed,
        )

    def _source(self, choice: Choice, target: Target) -> measuring_lib.Source | None:
        settings, question = choice.measuring, target.question
        if settings is None or not choice.method.needs_statistics:
            return None
        assert question is not None  # noqa: S101 - it asks a library
        assert question.open_split is not None  # noqa: S101 - `Queries.ask` gives it
        folder = target.path(settings.statistics_dir)
        return measuring_lib.Source(settings, question.open_split, folder)

    @abc.abstractmethod
    def pick(self, question: queries.Question) -> Choice:
        """Returns which experts of the library it takes, and how they are merged."""


def number_word(count: int) -> str:
    """Returns a number of experts for notes."""
    return {1: "one", 2: "two", 3: "three"}.get(count, f"{count}")


def options_of(value: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass that differ from their defaults, as JSON."""
    options: dict[str, Any] = {}
    for field in fields.of(type(value)):
        held = getattr(value, field.name)
        if held == field.default:
            continue
        if dataclasses.is_dataclass(held) and not isinstance(held, type):
            options[field.name] = [type(held).__name__, options_of(held)]
        else:
            options[field.name] = held
    return options
