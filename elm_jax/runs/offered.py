"""What strategies give for tasks, as candidates that can be scored."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

from elm_jax.checkpoints import manifest
from elm_jax.runs import candidates, expert_checks, queries
from elm_jax.runs.strategy import Strategy, Target


def check_members(
    strategies: Sequence[Strategy], folders: Sequence[pathlib.Path]
) -> None:
    """Raises an ElmError if a strategy cannot put the experts of a library together.

    Args:
      strategies: All that are used.
      folders: Of the library's experts.
    """
    merging = [strategy for strategy in strategies if strategy.merges]
    if not merging:
        return
    infos = [manifest.read_manifest(folder) for folder in folders]
    pads = all(strategy.pads_adapters for strategy in merging)
    expert_checks.check_alike(infos, pads=pads)
    for strategy in merging:
        strategy.check_experts(infos)


def without_library(
    strategies: Sequence[Strategy],
    tasks: Sequence[str],
    path: Callable[[str], pathlib.Path],
) -> Iterator[tuple[candidates.Candidate, list[str]]]:
    """Yields what strategies that ask no library give, each with its tasks."""
    for strategy in strategies:
        if strategy.needs_library:
            continue
        chosen: dict[candidates.Candidate, list[str]] = {}
        for task in tasks:
            candidate = strategy.choose(Target(task, path))
            chosen.setdefault(candidate, []).append(task)
        yield from chosen.items()


def from_library(
    strategies: Sequence[Strategy],
    questions: Sequence[queries.Question],
    path: Callable[[str], pathlib.Path],
) -> Iterator[tuple[candidates.Candidate, list[str]]]:
    """Yields what strategies that ask a library give for each task that asked."""
    for question in questions:
        target = Target(question.task, path, question)
        for strategy in strategies:
            if strategy.needs_library:
                candidate = dataclasses.replace(
                    strategy.choose(target), question=question
                )
                yield candidate, [question.task]
