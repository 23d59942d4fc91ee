"""Rows that a store has of an evaluation, and what strategies chose last among them."""

import dataclasses
from collections.abc import Sequence

from elm_jax.evaluation import result_store, results
from elm_jax.partitioning import processes
from elm_jax.runs import jobs


def rows_of(
    job_list: Sequence[jobs.ScoringJob], store: result_store.ResultStore
) -> list[results.ResultRow]:
    """Returns the newest rows of jobs; of a strategy, the rows of its latest choice."""
    of_these = {_mark_of(job, store) for job in job_list}
    rows: dict[tuple[object, ...], results.ResultRow] = {}
    for row in store.rows():
        if (mark := _mark(row)) in of_these:
            rows[(mark, row.metric)] = row
    return [*rows.values()]


def are_told(
    job_list: Sequence[jobs.ScoringJob], store: result_store.ResultStore
) -> Sequence[bool]:
    """Returns for each job whether a store has its rows, a strategy's as the newest.

    A strategy's rows are not the newest where it has chosen something else since, or
    the same from another library.
    """
    return processes.agree(_are_told(job_list, store))


def _are_told(
    job_list: Sequence[jobs.ScoringJob], store: result_store.ResultStore
) -> list[bool]:
    marks: set[tuple[object, ...]] = set()
    newest: dict[tuple[object, ...], results.ResultRow] = {}
    for row in store.rows():
        if (place := row.strategy_place) is None:
            marks.add(_mark(row))
        else:
            newest[place] = row
    marks |= {_mark(row) for row in newest.values()}
    return [_mark_of(job, store) in marks for job in job_list]


def _mark(row: results.ResultRow) -> tuple[object, ...]:
    if row.role != "strategy":
        return row.key("")
    return (*row.key(""), row.library, row.training_seed)


def _mark_of(
    job: jobs.ScoringJob, store: result_store.ResultStore
) -> tuple[object, ...]:
    if job.candidate.kind != "strategy":
        return job.cell.key("")
    facts = job.candidate.facts(store.path.parent)
    return (*job.cell.key(""), facts["library"], facts["training_seed"])


def tell_again(
    job_list: Sequence[jobs.ScoringJob],
    keys: jobs.Keys,
    store: result_store.ResultStore,
    *,
    run_id: str,
) -> None:
    """Adds rows of strategies that chose now what has been scored before.

    The parameters are the same, and so are the scores. But a report shows the newest
    rows of a strategy, of one library on all tasks: without these it would show what
    was chosen in between, or the library as it was before it grew.

    Args:
      job_list: The jobs of an evaluation, all of them scored.
      keys: Whose base and data these are.
      store: Has their scores, and gets the rows.
      run_id: The run that these name.
    """
    are_current = _are_told(job_list, store)
    untold = [
        job for job, is_told in zip(job_list, are_current, strict=True) if not is_told
    ]
    scored: dict[tuple[object, ...], dict[str, results.ResultRow]] = {
        job.cell.key(""): {} for job in untold
    }
    for row in store.rows() if untold else ():
        scored.get(row.key(""), {})[row.metric] = row
    for job in untold:
        rows = scored[job.cell.key("")].values()
        facts = [
            dataclasses.asdict(jobs.facts_of(job, keys, store, row)) for row in rows
        ]
        store.append(
            *(
                dataclasses.replace(row, **told_now, run_id=run_id)
                for row, told_now in zip(rows, facts, strict=True)
            )
        )
