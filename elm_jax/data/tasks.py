"""Tasks as plain data, mixtures of them, and the registry that finds them by name.

Importing this module, or one that registers tasks, imports neither SeqIO nor
TensorFlow: a task becomes a real `seqio.Task` in `seqio_tasks`, when it is needed.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from elm_jax import errors, paths
from elm_jax.data import (
    function_templates,
    serving,
    sources,
    template_files,
    templates,
)
from elm_jax.limits import limited

SCORE_EVAL = "_score_eval"  # T0's ending of the names of tasks that rank choices
ROLES = ("train", "unseen", "continual", "composed")
PROTOCOLS = ("", "elm")
_MOST_LICENCE = 200  # characters of a name; texts of licences are longer
SAME_SPLITS: Mapping[str, str] = MappingProxyType(
    {"train": "train", "validation": "validation", "test": "test"}
)


Template = (
    templates.Template
    | template_files.TemplateRef
    | function_templates.FunctionTemplate
)


@dataclasses.dataclass(frozen=True)
class Features:
    """How long a model's inputs and targets may be.

    Attributes:
      inputs_length: Tokens of an input, end token included; longer ones are cut.
      targets_length: Tokens of a target or answer choice, end token included.
      inputs_eos: Whether inputs end with the end token; targets always do.
      max_value_chars: Characters to which templates cut what they print; 0 for none,
        2048 for PromptSource's, T0's and the original ELM's cut.
    """

    inputs_length: int = 256
    targets_length: int = 64
    inputs_eos: bool = True
    max_value_chars: int = 0

    def __post_init__(self) -> None:
        for name in ("inputs_length", "targets_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 2:
                raise errors.ConfigError(
                    found=f"{name}={value!r}",
                    expected="a length of 2 tokens or more: one and the end token",
                    do=f"Set {name} (TASK_FEATURE_LENGTHS) higher",
                )


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Folders that data comes from and goes to.

    Attributes:
      cache_dir: Where tokenised caches are kept; made when needed.
      data_dir: Where file and TFDS sources find their datasets.
      templates_dir: Where PromptSource's templates were unpacked.
      sources: Kinds of sources, the preferred one first, as `serving.KINDS` has them.
      protocol: Whose choice of rows: "" for ours, `elm` for the original code's.
      limits: Of time and memory for each row, for a stranger's template.
    """

    cache_dir: str
    data_dir: str = ""
    templates_dir: str = ""
    sources: tuple[str, ...] = serving.DEFAULT_ORDER
    protocol: str = ""
    limits: limited.Limits = dataclasses.field(default_factory=limited.current)

    def __post_init__(self) -> None:
        serving.check_order(self.sources)
        if self.protocol not in PROTOCOLS:
            raise errors.ConfigError(
                found=f"protocol {self.protocol!r}",
                expected=f"one of {', '.join(map(repr, PROTOCOLS))}",
                do="Correct the protocol of the task data",
            )


@dataclasses.dataclass(frozen=True)
class Task:
    """A prompted task: rows of a dataset seen through one template.

    Attributes:
      name: Unique; `task_name` gives T0's. A changed task gets a new name.
      dataset: Name that all prompts of the dataset share, such as `cos_e_v1.11`.
      prompt: The template's name.
      cluster: Kind of task, such as `Multiple-Choice QA`.
      source: Where the rows come from.
      template: The template, or where it is read from.
      metrics: Names of metrics, such as `accuracy`.
      splits: Our split names (train, validation, test) to the source's splits, or
        to parts of them such as `train[:300]~42`. What another protocol takes under
        the same name has the protocol's name added: `train@elm`.
      role: One of `ROLES`: training datasets, or how a dataset is held out.
      note: A sentence for tables about what a user should know of its rows.
      licence: Of its rows, as those who publish them say; "" if it is not known.
      num_choices: How many answer choices each row has: 0 for none, -1 if that depends
        on the row, None if only the template knows.
      max_bad_share: Fraction of rows, in [0, 1], that may not fit the template
        before building a cache fails.
    """

    name: str
    dataset: str
    prompt: str
    cluster: str
    source: sources.Source
    template: Template
    metrics: tuple[str, ...]
    splits: Mapping[str, str] = dataclasses.field(default_factory=lambda: SAME_SPLITS)
    role: str = "train"
    note: str = ""
    licence: str = ""
    num_choices: int | None = None
    max_bad_share: float = 0.05

    def __post_init__(self) -> None:
        if not self.licence.isprintable() or len(self.licence) > _MOST_LICENCE:
            raise errors.ConfigError(
                found=f"task {self.name!r} with licence {self.licence!r:.60}",
                expected=f"a line of at most {_MOST_LICENCE} characters",
                do="Name the licence, such as 'CC BY 4.0', and not its text",
            )
        if self.role not in ROLES:
            raise errors.ConfigError(
                found=f"task {self.name!r} with role {self.role!r}",
                expected=f"one of {', '.join(ROLES)}",
                do=errors.did_you_mean(self.role, ROLES),
            )


@dataclasses.dataclass(frozen=True)
class TextTask:
    """Unlabelled text for pre-training: one document per row.

    Attributes:
      name: Unique among tasks.
      source: Where the rows come from.
      field: The field that holds the text.
      splits: Our split names to the source's.
    """

    name: str
    source: sources.Source
    field: str = "text"
    splits: Mapping[str, str] = dataclasses.field(default_factory=lambda: SAME_SPLITS)


@dataclasses.dataclass(frozen=True)
class SeqioTask:
    """A task that a user's module registered with SeqIO; its name is SeqIO's.

    Its inputs and targets are what SeqIO gives; it has no answer choices, so it is
    trained on and generated for, but not ranked.
    """

    name: str


AnyTask = Task | TextTask | SeqioTask


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several tasks trained as one, each in proportion to its (capped) size.

    Attributes:
      name: Unique among mixtures and tasks.
      tasks: Names of tasks.
      max_examples: Cap per task, drawn at random by the run's seed; None for none.
      caps: Caps of single tasks, by name.
      has_rates: Whether it is a mixture of SeqIO, with rates of its own; `seqio_tasks`
        checks that these are in proportion to the sizes.
    """

    name: str
    tasks: tuple[str, ...]
    max_examples: int | None = None
    caps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    has_rates: bool = False

    def cap(self, task: str) -> int | None:
        """Returns the most examples that a task of the mixture may have."""
        caps = [c for c in (self.max_examples, self.caps.get(task)) if c is not None]
        return min(caps, default=None)


class Registry:
    """Tasks and mixtures by name."""

    def __init__(self) -> None:
        self._items: dict[str, Task | TextTask | Mixture] = {}

    def add(self, *items: Task | TextTask | Mixture) -> None:
        """Registers tasks and mixtures.

        Raises:
          ConfigError: Another item has the name, or it is no name (`paths.is_name`).
        """
        for item in items:
            for name in (item.name, getattr(item, "dataset", item.name)):
                paths.check_name(
                    name,
                    of="a task, mixture or dataset",
                    do="Register it under such a name",
                )
            if self._items.setdefault(item.name, item) != item:
                raise errors.ConfigError(
                    found=f"two different tasks or mixtures named {item.name!r}",
                    expected="one definition for one name",
                    do="Rename one: a changed task gets a new name",
                )

    def find(self, name: str) -> Task | TextTask | Mixture | None:
        """Returns what was added by a name, None if nothing was."""
        return self._items.get(name)

    def remove(self, name: str) -> None:
        """Takes out what was added by a name."""
        del self._items[name]

    def get(self, name: str) -> AnyTask | Mixture:
        """Returns the task or mixture of this name.

        Names that only SeqIO knows can be found after a user's module has imported it.

        Raises:
          ConfigError: Nothing has this name.
        """
        if name in self._items:
            return self._items[name]
        seqio = sys.modules.get("seqio")
        if seqio is not None and name in seqio.TaskRegistry.names():
            paths.check_name(name, of="a task of SeqIO", do="Register it under one")
            return SeqioTask(name)
        if seqio is not None and name in seqio.MixtureRegistry.names():
            members = seqio.MixtureRegistry.get(name).tasks
            names = tuple(member.name for member in members)
            return Mixture(name, names, has_rates=True)
        raise errors.ConfigError(
            found=f"no task or mixture named {name!r}",
            expected="the name of a registered task or mixture, or a pattern",
            do=f"{errors.did_you_mean(name, self._names())} A module of tasks has "
            "to be imported first, such as `import tasks.original` in a gin file",
        )

    def _names(self) -> list[str]:
        """Returns all names, also those that a user's module registered with SeqIO.

        Tasks that `register_with_seqio` has put there are left out.
        """
        names = set(self._items)
        seqio = sys.modules.get("seqio")
        if seqio is not None:
            seqio_names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
            names |= {n for n in seqio_names if n.removesuffix(SCORE_EVAL) not in names}
        return sorted(names)

    def task(self, name: str) -> AnyTask:
        """Returns the task of this name; a mixture is an error."""
        item = self.get(name)
        if isinstance(item, Mixture):
            raise errors.ConfigError(
                found=f"{name!r} is a mixture of {len(item.tasks)} tasks",
                expected="the name of one task",
                do=f"Name one of them, such as {item.tasks[0]!r}",
            )
        return item

    def match(self, pattern: str) -> list[str]:
        """Returns the sorted names of tasks and mixtures that match.

        Args:
          pattern: A name; a shell pattern such as `cos_e_*`; or a mixture and one of
            these, which stands for tasks of the mixture: `elm_train/cos_e_*`.

        Raises:
          ConfigError: Nothing matches.
        """
        mixture, slash, rest = pattern.rpartition("/")
        candidates = sorted(self.expand(mixture)) if slash else self._names()
        names = paths.fitting(rest, candidates)
        if slash and not names:
            raise errors.ConfigError(
                found=f"no task {rest!r} among the {len(candidates)} of {mixture!r}",
                expected="the name of one of them, or a pattern",
                do=errors.did_you_mean(rest, candidates),
            )
        return names or [self.get(pattern).name]

    def expand(self, names: str | Iterable[str]) -> list[str]:
        """Returns the names of tasks that names, patterns and mixtures stand for.

        In the order given, mixtures in their own order, each task once.
        """
        expanded: dict[str, None] = {}
        for pattern in [names] if isinstance(names, str) else names:
            for name in self.match(pattern):
                item = self.get(name)
                members = item.tasks if isinstance(item, Mixture) else (name,)
                expanded.update(dict.fromkeys(self.task(m).name for m in members))
        return list(expanded)

    def mixtures(self, names: str | Iterable[str]) -> list[Mixture]:
        """Returns the mixtures among what names and patterns stand for."""
        patterns = [names] if isinstance(names, str) else names
        items = [self.get(name) for p in patterns for name in self.match(p)]
        return [item for item in items if isinstance(item, Mixture)]

    def caps(self, names: str | Iterable[str]) -> dict[str, int]:
        """Returns the caps that the mixtures among names set, by task."""
        caps: dict[str, int] = {}
        for pattern in [names] if isinstance(names, str) else names:
            task_names = self.expand(pattern)
            for mixture in self.mixtures_of(pattern):
                for task in filter(task_names.__contains__, mixture.tasks):
                    cap = mixture.cap(task)
                    if cap is not None:
                        caps[task] = min(cap, caps.get(task, cap))
        return caps

    def select(self, test: Callable[[Task], bool]) -> list[Task]:
        """Returns the prompted tasks for which `test` holds, sorted by name."""
        prompted = (item for item in self._items.values() if isinstance(item, Task))
        return sorted(filter(test, prompted), key=_name)

    def mixtures_of(self, names: str | Iterable[str]) -> list[Mixture]:
        """Returns the mixtures among names, whole or in part: `elm_train/cos_e_*`."""
        patterns = [names] if isinstance(names, str) else names
        return self.mixtures(pattern.partition("/")[0] for pattern in patterns)


registry = Registry()


def prompted_tasks(
    dataset: str,
    prompts: Sequence[str | Template],
    *,
    source: sources.Source,
    cluster: str,
    metrics: tuple[str, ...],
    subset: str | None = None,
    folder: str | None = None,
    **options: Any,
) -> list[Task]:
    """Returns one task per prompt of a dataset, under T0's names; registers none.

    Args:
      dataset: PromptSource's dataset folder.
      prompts: Names of templates in it, or templates themselves.
      source: Where the rows come from.
      cluster: Kind of task.
      metrics: Names of metrics of all these prompts.
      subset: PromptSource's subset folder, or None.
      folder: Where the dataset's folder lies; None for the user's templates folder.
      **options: Further fields of `Task`, such as `splits`, `role` and `licence`.
    """
    return [
        Task(
            name=templates.task_name(dataset, subset, _prompt(prompt)),
            dataset=templates.dataset_name(dataset, subset),
            prompt=_prompt(prompt),
            cluster=cluster,
            source=source,
            template=template_files.TemplateRef(dataset, prompt, subset, folder)
            if isinstance(prompt, str)
            else prompt,
            metrics=metrics,
            **options,
        )
        for prompt in prompts
    ]


def _prompt(prompt: str | Template) -> str:
    return prompt if isinstance(prompt, str) else prompt.name


def _name(task: Task) -> str:
    return task.name
