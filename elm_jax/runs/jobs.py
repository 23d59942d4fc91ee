"""What an evaluation scores: each candidate on each task and split, in turn."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple, Protocol

from elm_jax import errors
from elm_jax.data import tasks as task_registry
from elm_jax.data import token_store
from elm_jax.evaluation import result_store, results
from elm_jax.model import decoding_spec
from elm_jax.partitioning import processes
from elm_jax.peft import adapters
from elm_jax.runs import candidates, cell_keys, loaded, scorer, task_data
from elm_jax.runs.progress import Progress
from elm_jax.types import Params


class ScoredSplit(NamedTuple):
    """A task's split, the places of the rows that are scored, and facts about them."""

    dataset: token_store.TokenizedDataset
    rows: list[int]
    facts: results.Facts


class Program(Protocol):
    """A program that scores placed parameters, such as a `scorer.Scorer`."""

    def place(self, params: Params) -> Params: ...  # noqa: D102

    def score(  # noqa: D102
        self,
        params: Params,
        adapter: adapters.AnySpec | None,
        dataset: token_store.TokenizedDataset,
        rows: Sequence[int],
    ) -> scorer.Scores: ...


class ScoringJob(NamedTuple):
    """One candidate on one task and split."""

    candidate: candidates.Candidate
    cell: results.Cell
    split: ScoredSplit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
    """The parts of a key that all cells of an evaluation share.

    Attributes:
      base: The base.
      data: Vocabulary and lengths.
      rows_of: The protocol of the task data.
      claimed: What the user says of the protocol; "" for nothing.
      seed: The seed by which rows were chosen.
      length_normalized: Whether a choice's score is divided by its tokens.
      decoding: How tokens are chosen where a task has no choices.
    """

    base: loaded.Base
    data: task_data.OpenedData
    rows_of: str
    claimed: str
    seed: int
    length_normalized: bool
    decoding: decoding_spec.DecodingSpec

    def cell(self, candidate: candidates.Candidate, on: ScoredSplit) -> results.Cell:
        """Returns the cell of a candidate on a split: what decides its score.

        Raises:
          ConfigError: The protocol is not the one that is claimed.
        """
        dataset, rows, facts = on
        task = task_registry.registry.task(dataset.name)
        info = candidate.manifest
        how: dict[str, Any] = {
            "length_normalized": self.length_normalized,
            "decoding": self.decoding,
        }
        return results.Cell(
            expert=candidate.name,
            base_fingerprint=self.base.fingerprint,
            expert_fingerprint=candidate.fingerprint,
            task=dataset.name,
            dataset=getattr(task, "dataset", dataset.name),
            prompt=getattr(task, "prompt", dataset.name),
            split=dataset.split,
            protocol=cell_keys.protocol(
                dataset,
                rows_of=self.rows_of,
                base_dtype=self.base.config.base_dtype,
                claimed=self.claimed,
                **how,
            ),
            seed=self.seed,
            checkpoint_step=info.steps if info else 0,
            scoring=cell_keys.scoring(
                dataset, rows, facts, base=self.base, data=self.data, **how
            ),
            settings=candidate.settings,
        )


def are_done(
    jobs: Sequence[ScoringJob], store: result_store.ResultStore
) -> Sequence[bool]:
    """Returns of each job whether a store has its rows, alike on all processes."""
    done = {row.key("") for row in store.rows()}
    return processes.agree([job.cell.key("") in done for job in jobs])


def unscored(
    jobs: Sequence[ScoringJob], store: result_store.ResultStore
) -> list[list[ScoringJob]]:
    """Returns the jobs whose rows a store lacks, grouped by their parameters.

    Prints how many they are.
    """
    groups: dict[tuple[object, ...], list[ScoringJob]] = {}
    for job, skip in zip(jobs, are_done(jobs, store), strict=True):
        # In the order of all, so that rows have it also after a kill.
        group = groups.setdefault(job.candidate.origin, [])
        if not skip:
            group.append(job)
    todo = [group for group in groups.values() if group]
    total = sum(map(len, todo))
    print(f"to score: {total}; scored already: {len(jobs) - total}")  # noqa: T201
    return todo


def score(
    groups: Sequence[Sequence[ScoringJob]],
    program: Program,
    keys: Keys,
    store: result_store.ResultStore,
    *,
    run_id: str,
) -> None:
    """Scores jobs and stores their rows; the first process writes.

    Args:
      groups: Jobs of the same parameters, which are loaded once.
      program: The program that scores.
      keys: Whose base and data these are.
      store: Where rows go.
      run_id: The run that they name.

    Raises:
      ElmError: What kept a job from being scored, with its expert and task.
    """
    progress = Progress("score", total=sum(map(len, groups)), unit="cells")
    count = 0
    for group, (params, adapter) in _loaded(groups, keys.base, program):
        for job in group:
            cell_name = f"{job.cell.expert} on {job.cell.task} {job.cell.split}"
            with errors.during(f"scoring {cell_name}"):
                scored = program.score(
                    params, adapter, job.split.dataset, job.split.rows
                )
                more_arrays = job.candidate.kept_with_scores(
                    program, params, adapter, job.split.dataset, job.split.rows
                )
            if processes.is_main():
                scored = scored._replace(
                    per_example={**scored.per_example, **more_arrays}
                )
                record(job, scored, keys, store, run_id=run_id)
            count += 1
            progress(count)
        del params  # the devices' memory is for the next ones
    if processes.is_main():
        store.finish()


def record(
    job: ScoringJob,
    scored: scorer.Scores,
    keys: Keys,
    store: result_store.ResultStore,
    *,
    run_id: str,
) -> None:
    """Stores the rows of a job that was scored; the arguments are those of `score`."""
    facts = facts_of(job, keys, store, scored)
    store.record(
        job.cell,
        run_id=run_id,
        facts=facts,
        values=scored.values,
        num_examples=scored.num_examples,
        per_example=scored.per_example,
    )


def facts_of(
    job: ScoringJob,
    keys: Keys,
    store: result_store.ResultStore,
    scored: scorer.Scores | results.ResultRow,
) -> results.Facts:
    """Returns what rows of a job tell.

    Args:
      job: The job.
      keys: Whose base and data these are.
      store: Where the rows go.
      scored: Its scores, or an older row of them.
    """
    facts = dataclasses.replace(
        job.split.facts,
        **job.candidate.facts(store.path.parent),
        vocabulary=keys.data.vocabulary.fingerprint,
        ties=scored.ties,
        answers_cut=scored.answers_cut,
    )
    if isinstance(scored, results.ResultRow) and facts.overlap is None:
        # Not compared now. Experts and rows are the same; a library's need not be.
        of_base = {n: x for n, x in scored.overlap_with.items() if n == "base"}
        facts = dataclasses.replace(
            facts,
            overlap=scored.overlap,
            overlap_unknown=scored.overlap_unknown,
            overlap_with=of_base | {**facts.overlap_with},
        )
    return facts


def _loaded(
    groups: Sequence[Sequence[ScoringJob]], base: loaded.Base, program: Program
) -> Iterator[tuple[Sequence[ScoringJob], tuple[Params, adapters.AnySpec | None]]]:
    """Yields groups with placed parameters; reads the next ones meanwhile.

    Processes that score together read in turn: all have to be at the same place.
    """
    with futures.ThreadPoolExecutor(max_workers=1) as reader:
        future = None
        for place, group in enumerate(groups):
            load = future or reader.submit(group[0].candidate.load, base)
            future = None
            whole, adapter = load.result()
            params = program.place(whole)
            del whole, load  # so that no third model is held while the next is read
            if place + 1 < len(groups) and not processes.are_several():
                following = groups[place + 1][0].candidate
                future = reader.submit(following.load, base)
            yield group, (params, adapter)
            del params
