"""Races among the experts of an evaluation: rounds on growing samples of rows.

Trainings of one recipe with several seeds are one entrant: they stay or are dropped
together, by their mean on each row.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from elm_jax import errors, expert_kinds
from elm_jax.evaluation import racing, result_store, results
from elm_jax.partitioning import processes
from elm_jax.reporting import terminal, text
from elm_jax.runs import jobs, scorer

_METRIC = "accuracy"  # of ranked tasks; in result files from 0 to 100


Entrant = tuple[jobs.ScoringJob, ...]
"""The trainings of an expert on a task and split."""


@dataclasses.dataclass
class _TaskRace:
    """The race on a task and split.

    Attributes:
      remaining: The experts that are not dropped.
      order: All rows in the order in which rounds take them.
      ends: Rows that have been seen after each round.
      num_experts: How many began.
      num_trainings: How many trainings these experts have together.
      rounding: Float [rows], from [0, 1); see `racing.Racing.staying`.
      values: Float [remaining, rows seen], from 0 to 1: means over trainings.
      work: Rows scored up to now, over all trainings.
    """

    remaining: list[Entrant]
    order: np.ndarray
    ends: tuple[int, ...]
    num_experts: int
    num_trainings: int
    rounding: np.ndarray
    values: np.ndarray
    work: int = 0

    def has_dropped(self, job: jobs.ScoringJob) -> bool:
        """Returns whether a job was in this race, and no longer is."""
        is_here = _may_race(job) and _place(job) == _place(self.remaining[0][0])
        return is_here and all(job not in entrant for entrant in self.remaining)

    def jobs_of_round(self, place: int, keys: jobs.Keys) -> list[Entrant]:
        """Returns a round's jobs: the experts that are left, on the rows it adds."""
        begin = self.ends[place - 1] if place else 0
        rows = sorted(self.order[begin : self.ends[place]].tolist())

        def on_round_rows(job: jobs.ScoringJob) -> jobs.ScoringJob:
            # With the facts of all rows: in few rows, all choices may be alike.
            sample = job.split._replace(rows=rows)
            cell = keys.cell(job.candidate, sample)
            return jobs.ScoringJob(job.candidate, cell, sample)

        return [tuple(map(on_round_rows, entrant)) for entrant in self.remaining]

    def drop(self, added: Sequence[np.ndarray], race: racing.Racing) -> None:
        """Adds the values of a round, and drops the experts that have lost.

        Args:
          added: Float [trainings, rows] for each expert that is left.
          race: How they race.
        """
        self.work += sum(values.size for values in added)
        means = np.stack([values.mean(axis=0) for values in added])
        so_far = np.concatenate([self.values, means], axis=1)
        stay = race.staying(
            so_far,
            num_experts=self.num_experts,
            num_rows=len(self.order),
            rounding=self.rounding[: so_far.shape[1]],
        )
        self.values = so_far[stay]
        self.remaining = [
            entrant
            for entrant, stays in zip(self.remaining, stay, strict=True)
            if stays
        ]


def staying(
    race: racing.Racing,
    all_jobs: Sequence[jobs.ScoringJob],
    program: scorer.Scorer,
    keys: jobs.Keys,
    store: result_store.ResultStore,
    *,
    run_id: str,
) -> list[jobs.ScoringJob]:
    """Returns the jobs that are scored on all rows, and prints what races saved.

    Single experts race on each ranked task and split; other candidates, such as the
    multitask model and merges, and other tasks do not: all their jobs are returned.
    Scores of the rounds are kept beside the result file, in one that ends with
    `.race.jsonl`, so that a race that was stopped goes on.

    Args:
      race: How they race.
      all_jobs: Those of the evaluation.
      program: The program that scores.
      keys: Whose base and data these are.
      store: The evaluation's.
      run_id: The run that rows name.

    Raises:
      ConfigError: Several processes evaluate together.
    """
    if processes.are_several():
        raise errors.ConfigError(
            found="a race of several processes together",
            expected="one process, which sees all scores",
            do="Start one process, or leave evaluate.Evaluate.race out",
        )
    early = result_store.ResultStore(store.path.with_suffix(".race.jsonl"))
    races = _races(race, all_jobs, seed=keys.seed)
    for place in range(max((len(task_race.ends) for task_race in races), default=0)):
        running = [task_race for task_race in races if len(task_race.ends) > place]
        rounds = [task_race.jobs_of_round(place, keys) for task_race in running]
        asking = [job for entrants in rounds for entrant in entrants for job in entrant]
        todo = jobs.unscored(asking, early)
        jobs.score(todo, program, keys, early, run_id=run_id)
        rows = {row.key(_METRIC): row for row in early.rows() if row.metric == _METRIC}
        for task_race, entrants in zip(running, rounds, strict=True):
            task_race.drop(
                [_values(entrant, rows, early) for entrant in entrants], race
            )
    _show(races)
    return [
        job
        for job in all_jobs
        if not any(task_race.has_dropped(job) for task_race in races)
    ]


def _races(
    race: racing.Racing, all_jobs: Sequence[jobs.ScoringJob], *, seed: int
) -> list[_TaskRace]:
    by_place: dict[tuple[str, str], list[jobs.ScoringJob]] = {}
    for job in all_jobs:
        if _may_race(job):
            by_place.setdefault(_place(job), []).append(job)
    races = []
    for place, racing_jobs in by_place.items():
        experts = _by_expert(racing_jobs)
        if len(experts) > 1:
            rows = racing_jobs[0].split.rows
            key = [seed, zlib.crc32(" ".join(place).encode())]
            rounding = np.zeros(len(rows))
            if len(experts) < len(racing_jobs):
                rounding = np.random.default_rng([*key, 1]).random(len(rows))
            races.append(
                _TaskRace(
                    remaining=experts,
                    order=racing.order(rows, seed=key),
                    ends=race.rounds(len(rows)),
                    num_experts=len(experts),
                    num_trainings=len(racing_jobs),
                    rounding=rounding,
                    values=np.zeros((len(experts), 0)),
                )
            )
    return races


def _by_expert(racing_jobs: Sequence[jobs.ScoringJob]) -> list[Entrant]:
    """Returns the trainings of each expert: of one name and recipe, by seeds."""
    by_expert: dict[object, list[jobs.ScoringJob]] = {}
    for job in racing_jobs:
        info = job.candidate.manifest
        assert info is not None  # noqa: S101 - a single expert has one
        tells_seed = bool(info.recipe) and info.training_seed is not None
        identity = (info.name, info.recipe) if tells_seed else job.candidate.fingerprint
        by_expert.setdefault(identity, []).append(job)
    entrants: list[Entrant] = []
    for trainings in by_expert.values():
        manifests = [
            manifest for job in trainings for manifest in job.candidate.manifests
        ]
        # Two trainings with one seed differ in something that no recipe records.
        seeds_differ = len({info.training_seed for info in manifests}) == len(trainings)
        entrants += (
            [tuple(trainings)] if seeds_differ else [(job,) for job in trainings]
        )
    return entrants


def _values(
    entrant: Entrant,
    rows: Mapping[tuple[str | int, ...], results.ResultRow],
    store: result_store.ResultStore,
) -> np.ndarray:
    """Returns float [trainings, rows], from 0 to 1: an expert's scores in a round."""
    result_rows = [rows[job.cell.key(_METRIC)] for job in entrant]
    values = [store.per_example(row, only=(_METRIC,))[_METRIC] for row in result_rows]
    return np.stack(values) / 100.0


def _may_race(job: jobs.ScoringJob) -> bool:
    """Returns whether a job is of a single expert, on a task with choices.

    Others are what experts are compared with: in a race they would be dropped, or drop
    the best expert.
    """
    is_expert = job.candidate.strategy == "expert"
    is_single = expert_kinds.role(job.candidate.kind) == "expert"
    return is_expert and is_single and job.split.dataset.has_choices


def _place(job: jobs.ScoringJob) -> tuple[str, str]:
    return job.cell.task, job.cell.split


def _show(races: Sequence[_TaskRace]) -> None:
    """Prints who goes on to all rows, and the share of the work that all need."""
    table = Table(title="races")
    for title in ("task", "split", "experts", "on all rows", "work"):
        table.add_column(title, no_wrap=title != "task")
    work = whole = 0
    for task_race in races:
        full = task_race.num_trainings * len(task_race.order)
        task_work = task_race.work + sum(map(len, task_race.remaining)) * len(
            task_race.order
        )
        work, whole = work + task_work, whole + full
        name, split = _place(task_race.remaining[0][0])
        counts = (
            f"{task_race.num_experts}",
            f"{len(task_race.remaining)}",
            f"{task_work / full:.0%}",
        )
        table.add_row(Text(text.plain(name)), Text(text.plain(split)), *counts)
    if races:
        table.add_row("all", "", "", "", f"{work / whole:.0%}")
        terminal.show(table)
