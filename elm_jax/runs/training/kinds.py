"""How kinds of trained experts differ: objective, grouping and parts that train."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

from elm_jax import errors, expert_kinds
from elm_jax.data import tasks as task_registry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """An objective, a grouping of tasks into experts, and the parts that train.

    Attributes:
      objective: `span_corruption` restores what was cut out of text and makes a base
        from scratch; `supervised` learns targets from inputs and starts from a base.
      grouping: One expert for each `prompt`, that is task; one for each `dataset` of
        the tasks; or one for `all`.
      parts: Which parameters train unless a run says otherwise: a name in
        `peft.expert_parts.PARTS`.
    """

    objective: Literal["span_corruption", "supervised"]
    grouping: Literal["prompt", "dataset", "all"]
    parts: str

    @property
    def makes_base(self) -> bool:
        """Whether a base comes out, which starts from no other."""
        return self.objective == "span_corruption"


KINDS: Mapping[expert_kinds.TrainedKind, Kind] = {
    "base": Kind(objective="span_corruption", grouping="all", parts="all"),
    "prompt": Kind(
        objective="supervised", grouping="prompt", parts="adapters_and_norms"
    ),
    "dataset": Kind(objective="supervised", grouping="dataset", parts="all"),
    "multitask": Kind(objective="supervised", grouping="all", parts="all"),
    # Of the labelled rows by which other experts are chosen: a control of the choice.
    "selection": Kind(
        objective="supervised", grouping="all", parts="adapters_and_norms"
    ),
}


def group(kind: expert_kinds.TrainedKind, tasks: Iterable[str]) -> dict[str, list[str]]:
    """Returns the tasks of each expert to be, by the expert's name.

    An expert for all tasks is named like its kind.

    Args:
      kind: Of the experts.
      tasks: Names of registered tasks.

    Raises:
      ConfigError: There is no task.
    """
    grouping = KINDS[kind].grouping
    experts: dict[str, list[str]] = {}
    for task in tasks:
        names = {"prompt": task, "dataset": _dataset_of(task), "all": kind}
        experts.setdefault(names[grouping], []).append(task)
    if not experts:
        raise errors.ConfigError(
            found="no task to train on",
            expected="the names of tasks or mixtures",
            do="Set train.Train.tasks, or MIXTURE_OR_TASK_NAME in the gin files",
        )
    return experts


def _dataset_of(task: str) -> str:
    """Returns the dataset of a task; a task without one is its own dataset."""
    return getattr(task_registry.registry.task(task), "dataset", task)
