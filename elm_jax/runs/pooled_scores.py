"""Scores pools of experts by the scores of each of their experts."""

from collections.abc import Mapping, Sequence

import numpy as np

from elm_jax import errors
from elm_jax.evaluation import answers, rank_classification, result_store, results
from elm_jax.partitioning import processes
from elm_jax.runs import jobs, scorer
from elm_jax.runs.pooled_candidate import PooledCandidate

_METRIC = "accuracy"  # whose rows keep the scores of choices
_ARRAYS = ("example_ids", "num_choices", "scores")


def members(
    all_jobs: Sequence[jobs.ScoringJob], keys: jobs.Keys
) -> list[jobs.ScoringJob]:
    """Returns the jobs of pools' experts that are not among all jobs, each once.

    Args:
      all_jobs: All jobs of an evaluation.
      keys: What the keys of their cells have.
    """
    pools = [job for job in all_jobs if isinstance(job.candidate, PooledCandidate)]
    added: dict[results.Cell, jobs.ScoringJob] = {}
    for pool in pools:
        for expert in _candidate(pool).models:
            cell = keys.cell(expert, pool.split)
            added.setdefault(cell, jobs.ScoringJob(expert, cell, pool.split))
    for job in all_jobs:
        added.pop(job.cell, None)
    return [*added.values()]


def score(
    all_jobs: Sequence[jobs.ScoringJob],
    program: jobs.Program,
    keys: jobs.Keys,
    store: result_store.ResultStore,
    *,
    run_id: str,
) -> None:
    """Scores what a store lacks: models, and then pools by the scores of their experts.

    Args:
      all_jobs: Of an evaluation, those of pools' experts among them.
      program: What scores models.
      keys: What their cells have in their keys.
      store: Where rows go.
      run_id: The run that rows name.

    Raises:
      ElmError: What kept a job from being scored, with its expert and task.
    """
    models = [j for j in all_jobs if not isinstance(j.candidate, PooledCandidate)]
    if todo := jobs.unscored(models, store):
        jobs.score(todo, program, keys, store, run_id=run_id)
    if not processes.is_main():
        return
    rows = {row.key(_METRIC): row for row in store.rows()}
    for pool in all_jobs:
        is_pool = isinstance(pool.candidate, PooledCandidate)
        if not is_pool or pool.cell.key(_METRIC) in rows:
            continue
        cells = [keys.cell(expert, pool.split) for expert in _candidate(pool).models]
        cell_name = f"{pool.cell.expert} on {pool.cell.task} {pool.cell.split}"
        with errors.during(f"scoring {cell_name}"):
            arrays = [
                store.per_example(rows[cell.key(_METRIC)], only=_ARRAYS)
                for cell in cells
            ]
            scored = scorer.of_ranking(_outcome(pool, arrays))
        jobs.record(pool, scored, keys, store, run_id=run_id)
    store.finish()


def _candidate(pool: jobs.ScoringJob) -> PooledCandidate:
    assert isinstance(pool.candidate, PooledCandidate)  # noqa: S101 - its callers look
    return pool.candidate


def _outcome(
    pool: jobs.ScoringJob, arrays: Sequence[Mapping[str, np.ndarray]]
) -> rank_classification.RankOutcome:
    """Returns the outcome of a pool on the rows that its experts were scored on.

    Args:
      pool: The job of the pool.
      arrays: What the store keeps of each expert's rows.
    """
    examples = [pool.split.dataset[row] for row in pool.split.rows]
    example_ids = np.array([example.example_id for example in examples])
    for of_expert in arrays:
        is_whole = {*_ARRAYS} <= {*of_expert}
        if not is_whole or not np.array_equal(of_expert["example_ids"], example_ids):
            raise errors.DataError(
                found=f"an expert of {pool.candidate.name} scored on other rows of"
                f" {pool.cell.task} {pool.cell.split}",
                expected="its scores of each choice of the rows that the pool has",
                do="Remove its rows from the result file, and score them again",
            )
    scores = _candidate(pool).pooled(
        [
            np.split(of_expert["scores"], np.cumsum(of_expert["num_choices"])[:-1])
            for of_expert in arrays
        ]
    )
    return rank_classification.RankOutcome(
        example_ids=example_ids,
        labels=np.array([example.label for example in examples], np.int32),
        predictions=np.array([np.argmax(row) for row in scores], np.int32),
        scores=tuple(scores),
        answers=tuple(answers.number(example.choices_text) for example in examples),
    )
