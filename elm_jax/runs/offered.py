"""What strategies give for tasks, as candidates that can be scored."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

from elm_jax.runs import candidates, queries
from elm_jax.runs.strategy import Strategy, Target


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
