"""Which of the rows to score an expert was trained on, or on nearly the same."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.data import cache, token_store
from elm_jax.evaluation import overlap, result_store
from elm_jax.partitioning import processes
from elm_jax.reporting import marks
from elm_jax.runs import jobs
from elm_jax.runs.progress import Progress

Action = Literal["refuse", "mark", "ignore"]
_MOST_NAMED = 5

Rows = tuple[str, str]
"""A training task and the fingerprint of its rows."""
Split = tuple[str, str]


def told(
    asked: Sequence[jobs.Job],
    store: result_store.ResultStore,
    cache_dir: str,
    action: Action,
) -> list[jobs.Job]:
    """Returns the jobs with what share of their rows the candidate was trained on.

    Args:
      asked: All jobs of an evaluation.
      store: Jobs that it has rows of are not compared again.
      cache_dir: Where the token caches of trainings are looked for, by the fingerprints
        that manifests tell. Nothing is built.
      action: `refuse` where more than `marks.MOST_PERCENT` of a job's rows overlap,
        `mark` these, or `ignore` it all.

    Raises:
      DataError: Some are to be refused; or a cache is damaged.
    """
    if action == "ignore":
        return list(asked)
    are_done = jobs.are_done(asked, store)
    every = [job for job, done in zip(asked, are_done, strict=True) if not done]
    splits = {_split(job): job.of.dataset for job in every}
    trained_on = dict.fromkeys(rows for job in every for rows in _trained_on(job)[0])
    found = _found(list(trained_on), splits, cache_dir)
    marked = [_with_facts(job, found) for job in every]
    if action == "refuse":
        _check(marked)
    unknown = {job.cell.expert for job in marked if job.of.facts.overlap_unknown}
    if unknown and processes.is_main():
        print(  # noqa: T201
            f"overlap with training rows: not compared, or in part, for {len(unknown)}"
            f" experts whose training rows are not in {cache_dir}: {_some(unknown)}"
        )
    now = iter(marked)
    return [
        job if done else next(now) for job, done in zip(asked, are_done, strict=True)
    ]


def _split(job: jobs.Job) -> Split:
    return job.of.dataset.name, job.of.dataset.split


def _trained_on(job: jobs.Job) -> tuple[list[Rows], int]:
    """Returns a candidate's training rows, and how many tasks tell of none."""
    known: list[Rows] = []
    unknown = 0
    for info in job.candidate.manifests:
        for task in info.tasks:
            fingerprint = manifest.data_fingerprint(info, task)
            if fingerprint is None:
                unknown += 1
            else:
                known.append((task, fingerprint))
        unknown += not info.tasks
    return known, unknown


def _found(
    asked: Sequence[Rows],
    splits: dict[Split, token_store.TokenizedDataset],
    cache_dir: str,
) -> dict[Rows, dict[Split, np.ndarray] | None]:
    """Returns which rows of each split are among training rows; None if not here.

    Training rows are read one task after another, since all may not fit in memory.
    """
    if not asked:
        return {}
    search = overlap.Search([overlap.Texts.of(_texts(one)) for one in splits.values()])
    progress = Progress("compare with training rows", total=len(asked), unit="tasks")
    found: dict[Rows, dict[Split, np.ndarray] | None] = {}
    for count, (task, fingerprint) in enumerate(asked, start=1):
        rows = cache.find(cache_dir, task, "train", fingerprint=fingerprint)
        found[task, fingerprint] = None
        if rows is not None:
            places = search.rows_in(overlap.Texts.of(_texts(rows)))
            found[task, fingerprint] = dict(zip(splits, places, strict=True))
        progress(count)
    return found


def _texts(dataset: token_store.TokenizedDataset) -> Iterator[str]:
    """Yields what a model is asked in each row; plain texts are targets alone."""
    columns = dataset.columns
    for row in range(len(dataset)):
        yield columns.inputs_text.text(row) or columns.targets_text.text(row)


def _with_facts(
    job: jobs.Job, found: dict[Rows, dict[Split, np.ndarray] | None]
) -> jobs.Job:
    if not job.candidate.manifests:  # what a base was trained on is not at hand
        return job
    known, unknown = _trained_on(job)
    here = [places for rows in known if (places := found[rows]) is not None]
    share = overlap.share(job.of.rows, [places[_split(job)] for places in here])
    facts = dataclasses.replace(
        job.of.facts,
        overlap=share if here else None,
        overlap_unknown=unknown + len(known) - len(here),
    )
    return job._replace(of=job.of._replace(facts=facts))


def _check(every: Sequence[jobs.Job]) -> None:
    """Raises DataError if more than a few rows of a job were trained on."""
    leaks: dict[str, float] = {}
    for job in every:
        share, cell = job.of.facts.overlap or 0.0, job.cell
        if share > marks.MOST_PERCENT:
            text = f"{share:.1f} % of {cell.task} {cell.split} for {cell.expert}"
            leaks[text] = share
    if not leaks:
        return
    worst = sorted(leaks, key=lambda text: (-leaks[text], text))
    raise errors.DataError(
        found="rows that experts were trained on, or nearly, among those to be scored:"
        f" {_some(worst)}",
        expected=f"at most {marks.MOST_PERCENT:g} % of a task's rows",
        do='Set evaluate.Evaluate.overlap = "mark" to score them with a mark in tables,'
        ' as for an expert\'s own tasks; "ignore" compares nothing; or leave these out',
    )


def _some(names: Sequence[str] | set[str]) -> str:
    """Returns the first few names and the number of the others."""
    order = sorted(names) if isinstance(names, set) else list(names)
    more = f", and {len(order) - _MOST_NAMED} more" if len(order) > _MOST_NAMED else ""
    return ", ".join(order[:_MOST_NAMED]) + more
