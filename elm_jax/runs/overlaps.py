"""What share of the rows to score is known: to an expert, its base or a library."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.evaluation import overlap, result_store
from elm_jax.partitioning import processes
from elm_jax.reporting import marks
from elm_jax.runs import jobs, queries, row_search, told_rows

Action = Literal["refuse", "mark", "ignore"]
_MOST_NAMED = 5


def with_overlaps(
    all_jobs: Sequence[jobs.ScoringJob],
    store: result_store.ResultStore,
    cache_dir: str,
    action: Action,
    base: manifest.Manifest,
) -> list[jobs.ScoringJob]:
    """Returns the jobs; their facts now tell which share of their rows is known.

    Three shares: of rows that the candidate was trained on, that the base was trained
    on, and that are keys or queries of a library. Only the first one is refused, as all
    compared models have the same base, and keys and queries are without labels.

    Args:
      all_jobs: Those of an evaluation.
      store: Jobs that it has rows of are not compared again.
      cache_dir: Where the token caches of trainings are looked for, by the fingerprints
        that manifests tell. None is built.
      action: `refuse` where more than `marks.MOST_PERCENT` of a job's rows overlap with
        training rows of its experts, `mark` these, or `ignore` it all.
      base: The base's manifest.

    Raises:
      DataError: Some are to be refused; or a token cache is damaged.
    """
    if action == "ignore":
        return list(all_jobs)
    are_told = told_rows.are_told(all_jobs, store)
    new_jobs = [
        job for job, is_told in zip(all_jobs, are_told, strict=True) if not is_told
    ]
    comparison = _Comparison(new_jobs, cache_dir, base)
    marked = [comparison.with_facts(job) for job in new_jobs]
    if action == "refuse":
        _check(marked)
    unknown = {job.cell.expert for job in marked if job.split.facts.overlap_unknown}
    if unknown and processes.is_main():
        print(  # noqa: T201
            f"overlap with training rows: not compared, or in part, for {len(unknown)}"
            f" experts whose training rows are not in {cache_dir}: {_some(unknown)}"
        )
    marked_jobs = iter(marked)
    return [
        job if is_told else next(marked_jobs)
        for job, is_told in zip(all_jobs, are_told, strict=True)
    ]


class _Comparison:
    """Which rows of some jobs are known to models or libraries."""

    def __init__(
        self,
        new_jobs: Sequence[jobs.ScoringJob],
        cache_dir: str,
        base: manifest.Manifest,
    ) -> None:
        splits = {_split(job): job.split.dataset for job in new_jobs}
        self._search = row_search.RowSearch(splits, cache_dir)
        self._base = _training((base,))
        trained_on = [_training(job.candidate.manifests)[0] for job in new_jobs]
        if new_jobs:
            trained_on.append(self._base[0])
        self._known_places = self._search.in_training(
            [*dict.fromkeys(rows for trainings in trained_on for rows in trainings)]
        )

    def with_facts(self, job: jobs.ScoringJob) -> jobs.ScoringJob:
        """Returns a job whose facts tell which share of its rows is known."""
        base, missing = self._share(job, self._base)
        shares = {"base": None if missing else base}
        if job.candidate.question is not None:
            shares |= self._of_library(job, job.candidate.question)
        facts = dataclasses.replace(job.split.facts, overlap_with=shares)
        if job.candidate.manifests:
            share, missing = self._share(job, _training(job.candidate.manifests))
            facts = dataclasses.replace(facts, overlap=share, overlap_unknown=missing)
        return job._replace(split=job.split._replace(facts=facts))

    def _share(
        self, job: jobs.ScoringJob, trained_on: tuple[list[row_search.Training], int]
    ) -> tuple[float | None, int]:
        """Returns the percentage among training rows, and tasks not compared."""
        tasks, unknown = trained_on
        places_by_task = [
            places for rows in tasks if (places := self._known_places[rows]) is not None
        ]
        share = _percent(job, places_by_task) if places_by_task else None
        return share, unknown + len(tasks) - len(places_by_task)

    def _of_library(
        self, job: jobs.ScoringJob, question: queries.Question
    ) -> dict[str, float | None]:
        keys = self._search.in_keys(question)
        return {
            "queries": _percent(job, [self._search.in_queries(question)]),
            "keys": None if keys is None else _percent(job, [keys]),
            "queries in keys": self._search.queries_in_keys(question),
        }


def _split(job: jobs.ScoringJob) -> row_search.Split:
    return job.split.dataset.name, job.split.dataset.split


def _percent(job: jobs.ScoringJob, known_places: Iterable[row_search.Places]) -> float:
    return overlap.share(
        job.split.rows, [places[_split(job)] for places in known_places]
    )


def _training(
    infos: Sequence[manifest.Manifest],
) -> tuple[list[row_search.Training], int]:
    """Returns training rows that manifests tell, and how many tasks tell of none."""
    tasks: list[row_search.Training] = []
    unknown = 0
    for info in infos:
        for task in info.tasks:
            fingerprint = manifest.data_fingerprint(info, task)
            if fingerprint is None:
                unknown += 1
            else:
                tasks.append((task, fingerprint))
        unknown += not info.tasks
    return tasks, unknown


def _check(marked_jobs: Sequence[jobs.ScoringJob]) -> None:
    """Raises DataError if more than a few rows of a job were trained on."""
    leaks: dict[str, float] = {}
    for job in marked_jobs:
        share, cell = job.split.facts.overlap or 0.0, job.cell
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
