"""Scores of a library's experts on the rows that ask it, kept with the library.

They lie in the folder `behaviour` of the library, in a store of result rows like that
of an evaluation: each is known by the expert, the base, and the rows and their tokens.
What is there is not scored again, by no strategy and no other evaluation, and is
compared with its hash when it is read; after a kill, and when an expert lands, the rest
is scored.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from elm_jax import errors
from elm_jax.data import span_corruption, token_store
from elm_jax.data.vocabulary import SentencePiece
from elm_jax.evaluation import result_store, results
from elm_jax.partitioning import processes
from elm_jax.peft import adapters
from elm_jax.routing import behaviour as behaviour_lib
from elm_jax.runs import (
    candidates,
    jobs,
    observed,
    queries,
    scorer,
    told_rows,
)
from elm_jax.runs.strategy import Strategy
from elm_jax.types import EOS_ID, Params

FOLDER = "behaviour"
_METRIC = "choices"  # their mean number in a row, which no other batch size changes


class _WithoutLabels:
    """A scorer that gives the log-probabilities of choices, and nothing by labels.

    Where a task has no choices, the only one is what the model itself writes, its text
    tokenised again, with the end token if it wrote one.
    """

    def __init__(self, program: scorer.Scorer, vocabulary: SentencePiece) -> None:
        self._program, self._vocabulary = program, vocabulary
        self.place = program.place

    def score(
        self,
        params: Params,
        adapter: adapters.AnySpec | None,
        dataset: token_store.TokenizedDataset,
        rows: Sequence[int],
    ) -> scorer.Scores:
        """Returns the scores of choices; the label of every row is taken to be 0."""
        examples = [dataset[row]._replace(label=0) for row in rows]
        share = None
        if not dataset.has_choices:
            texts, are_cut = self._program.write(params, adapter, examples)
            encoded = self._vocabulary.encode_batch(texts)
            written = [
                # An answer needs a token, also where what was written is no text.
                np.array(ids if is_cut and ids else [*ids, EOS_ID], np.int32)
                for ids, is_cut in zip(encoded, are_cut.tolist(), strict=True)
            ]
            share = 100.0 * float(are_cut.mean())
            examples = [
                example._replace(choices=(tokens,), choices_text=(text,))
                for example, tokens, text in zip(examples, written, texts, strict=True)
            ]
        outcome = self._program.rank(params, adapter, examples, length_normalized=False)
        counts = outcome.num_choices
        arrays = {
            "example_ids": outcome.example_ids,
            _METRIC: counts.astype(np.float32),
            "scores": np.concatenate(outcome.scores),
        }
        if not dataset.has_choices:
            arrays["tokens"] = np.array(
                [len(example.choices[0]) for example in examples]
            )
        values = {_METRIC: float(counts.mean())}
        return scorer.Scores(values, len(rows), arrays, answers_cut=share)


def path(library_dir: pathlib.Path) -> pathlib.Path:
    """Returns the file of a library's scores."""
    return library_dir / FOLDER / "scores.jsonl"


def with_behaviour(
    questions: Sequence[queries.Question],
    strategies: Sequence[Strategy],
    program: scorer.Scorer,
    keys: jobs.Keys,
    *,
    library_dir: pathlib.Path,
    run_id: str,
) -> list[queries.Question]:
    """Returns questions with the behaviour of the experts that strategies look at.

    Args:
      questions: Each with the experts that may be chosen.
      strategies: All of the evaluation.
      program: The program that scores.
      keys: Whose base and data these are.
      library_dir: Whose scores are read, and added to.
      run_id: The run that rows name.

    Raises:
      ConfigError: A task has no answer choices; or the folder cannot be written.
      ElmError: What kept an expert from being scored.
    """
    expert_names = [_looked_at(question, strategies) for question in questions]
    asks = any(strategy.scores_rows for strategy in strategies)
    reads_inputs = any(strategy.reads_inputs for strategy in strategies)
    if not (any(expert_names) or asks or reads_inputs):
        return [*questions]
    keys = dataclasses.replace(keys, claimed="", seed=0, length_normalized=False)
    all_jobs = [
        job
        for question, names in zip(questions, expert_names, strict=True)
        for job in _jobs(question, names, keys)
    ]
    store = result_store.ResultStore(path(library_dir))
    print(f"rows that ask, in {store.path}:")  # noqa: T201
    todo = jobs.unscored(all_jobs, store)
    unlabelled = _WithoutLabels(program, keys.data.vocabulary)
    jobs.score(todo, unlabelled, keys, store, run_id=run_id)
    read = processes.agree(_read(all_jobs, store) if processes.is_main() else None)
    _tell_cut(all_jobs, store)
    answers = iter([observed.Answers(*of_job) for of_job in read])
    answered = []
    for question, names in zip(questions, expert_names, strict=True):
        if names and question.dataset.has_choices:
            base = next(answers).scores
            scores = {name: next(answers).scores for name in names}
            examples = [question.dataset[row] for row in question.rows]
            behaviour = observed.of(scores, base, examples)
            question = question._replace(behaviour=behaviour)
        elif names:
            behaviour = observed.of_written({name: next(answers) for name in names})
            question = question._replace(behaviour=behaviour)
        scoring = functools.partial(
            _scoring, program=unlabelled, keys=keys, store=store, run_id=run_id
        )
        if reads_inputs:
            asked_by_spans = functools.partial(
                _missing_spans, question, scoring, keys.data.vocabulary
            )
            question = question._replace(missing_spans=asked_by_spans)
        answered.append(scoring(question) if asks else question)
    return answered


def _scoring(question: queries.Question, **how: Any) -> queries.Question:
    """Returns a question whose rows can be scored."""
    return question._replace(score_rows=_ScoreRows(question, **how))


def _missing_spans(
    question: queries.Question,
    scoring: Callable[[queries.Question], queries.Question],
    vocabulary: SentencePiece,
    seed: int,
) -> queries.Question:
    """Returns what `queries.Question.missing_spans` does."""
    dataset = span_corruption.missing_spans(
        question.dataset, question.rows, vocabulary=vocabulary, seed=seed
    )
    rows = tuple(range(len(dataset)))
    return scoring(question._replace(dataset=dataset, rows=rows, behaviour=None))


class _ScoreRows(NamedTuple):
    """Scores experts on some of the rows that ask, and keeps that likewise.

    Of experts whose behaviour on all of these rows is known nothing is scored.
    """

    question: queries.Question
    program: _WithoutLabels
    keys: jobs.Keys
    store: result_store.ResultStore
    run_id: str

    def __call__(
        self, names: Sequence[str], rows: Sequence[int]
    ) -> list[list[list[float]]]:
        """Returns what `queries.ScoreRows` does."""
        behaviour = self.question.behaviour
        if behaviour is not None and {*names} <= {*behaviour.names}:
            return behaviour.of_rows(names, [*map(self.question.rows.index, rows)])
        part = self.question._replace(rows=tuple(rows))
        expert_jobs = [*_jobs(part, names, self.keys)][1:]  # without the base
        todo = jobs.unscored(expert_jobs, self.store)
        jobs.score(todo, self.program, self.keys, self.store, run_id=self.run_id)
        read = _read(expert_jobs, self.store) if processes.is_main() else None
        return [scores for scores, _ in processes.agree(read)]


def _looked_at(
    question: queries.Question, strategies: Sequence[Strategy]
) -> tuple[str, ...]:
    """Returns the experts whose scores any strategy needs, by name."""
    names = {name for x in strategies for name in x.looks_at(question)}
    scored = names or any(strategy.scores_rows for strategy in strategies)
    if scored:
        check_choices(question.dataset, strategies)
    return tuple(sorted(names))


def check_choices(
    dataset: token_store.TokenizedDataset, strategies: Sequence[Strategy]
) -> None:
    """Raises ConfigError if a strategy compares answers, and the rows have none.

    Args:
      dataset: Of the rows that ask.
      strategies: All of the evaluation.
    """
    wrong = [strategy for strategy in strategies if strategy.needs_choices]
    if wrong and not dataset.has_choices:
        raise errors.ConfigError(
            found=f"{wrong[0]} for {dataset.name}, whose answers are written freely",
            expected="tasks with answer choices, which it compares",
            do="Leave out the task, or the strategy, or choose a statistic of one"
            f" answer: {', '.join(behaviour_lib.OF_WRITTEN)}",
        )


def _jobs(
    question: queries.Question, names: Collection[str], keys: jobs.Keys
) -> Iterator[jobs.ScoringJob]:
    """Yields the base, if its answers are compared with experts', and each expert."""
    dataset = question.dataset
    facts = results.Facts(data_fingerprint=dataset.fingerprint)
    rows = jobs.ScoredSplit(dataset, [*question.rows], facts)
    everyone = [candidates.Candidate("base", strategy="base")]
    everyone = everyone if names and dataset.has_choices else []
    everyone += candidates.of_experts([question.experts[name] for name in names])
    for candidate in everyone:
        yield jobs.ScoringJob(candidate, keys.cell(candidate, rows), rows)


def _read(
    all_jobs: Sequence[jobs.ScoringJob], store: result_store.ResultStore
) -> list[tuple[list[list[float]], list[int]]]:
    """Returns the parts of each job's `observed.Answers`, as JSON values."""
    rows = {row.key(_METRIC): row for row in store.rows()}
    parts = []
    for job in all_jobs:
        row = rows[job.cell.key(_METRIC)]
        names = ("scores", _METRIC)
        if not job.split.dataset.has_choices:  # else they are in the dataset
            names += ("tokens",)
        arrays = store.per_example(row, only=names)
        ends = np.cumsum(arrays[_METRIC].astype(np.int64))
        split = np.split(arrays["scores"], ends[:-1])
        tokens = arrays["tokens"].tolist() if "tokens" in names else []
        parts.append(([of_row.tolist() for of_row in split], tokens))
    return parts


def _tell_cut(
    all_jobs: Sequence[jobs.ScoringJob], store: result_store.ResultStore
) -> None:
    """Prints how many of the answers that experts wrote have no end, if any."""
    shares = [
        row.answers_cut for row in told_rows.rows_of(all_jobs, store) if row.answers_cut
    ]
    if shares:
        number = sum(not job.split.dataset.has_choices for job in all_jobs)
        mean = sum(shares) / number
        print(f"note: {mean:.0f} % of the answers that experts wrote have no end")  # noqa: T201
