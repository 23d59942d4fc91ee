"""What routers of whole tasks need, made of texts from Python.

It is the question that an evaluation makes of the rows of a task, with what the router
says that it needs, and no more.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors, types
from elm_jax.api import rows
from elm_jax.data import span_corruption, token_store
from elm_jax.library import index, retrieval
from elm_jax.runs import behaviour_scores, observed, queries, task_data
from elm_jax.runs.task_router import TaskRouter

Scores = Mapping[str, Sequence[np.ndarray]]
# Of examples and names, "" for the base: what each gives to the choices.
ScoreFn = Callable[[Sequence[token_store.Example], Sequence[str]], Scores]


class Asked(NamedTuple):
    """A library that is asked by texts.

    Attributes:
      folders: Of the experts that may be chosen, by name.
      opened: The keys.
      embedder: Gives what made them.
      data: Vocabulary, and where the rows behind keys are.
      score: What scores experts.
    """

    folders: Mapping[str, pathlib.Path]
    opened: index.Index
    embedder: Callable[[], types.Embedder]
    data: task_data.OpenedData
    score: ScoreFn

    def question(
        self,
        router: TaskRouter,
        texts: Sequence[str],
        choices: Sequence[str],
        answers: Sequence[str] = (),
    ) -> queries.Question:
        """Returns the question that a router answers.

        Args:
          router: The router that answers.
          texts: Inputs of the task.
          choices: The answer choices of them all; () for none.
          answers: The right ones, one for each text; () if they are not known.

        Raises:
          ConfigError: The router needs choices or answers, and there are none.
          ElmError: As `rows.dataset`, and where experts are embedded or scored.
        """
        dataset = self._dataset(texts, choices, answers)
        behaviour_scores.check_choices(dataset, [router])
        if router.reads_labels and not answers:
            raise errors.ConfigError(
                found=f"{router.label} for texts without answers",
                expected="the right choice of each text, as it reads labels",
                do="Give answers=[...], or take another router",
            )
        places = tuple(range(len(dataset)))
        keys = tuple(x for x in self.opened.experts if x.name in self.folders)
        text_format = self.opened.settings.text_format
        question = queries.Question(
            dataset.name,
            dataset,
            places,
            retrieval.Retrieval((), (), np.zeros(0, np.float32), 0),
            self.folders,
            keys=keys,
            text_format=text_format,
            open_split=self.data.open,
            score_rows=functools.partial(self._score_rows, dataset),
            opened=self.opened,
        )
        question = question._replace(
            missing_spans=functools.partial(self._missing_spans, question)
        )
        if router.reads_votes:
            question = self._with_votes(question)
        if names := sorted(router.looks_at(question)):
            if not choices:
                raise errors.ConfigError(
                    found=f"{router.label} for texts without choices",
                    expected="choices, which experts score",
                    do="Give choices, or take a router that reads keys or inputs",
                )
            examples = [dataset[place] for place in places]
            scores = dict(self.score(examples, [*names, ""]))
            of_base = scores.pop("")
            behaviour = observed.of(scores, of_base, examples)
            question = question._replace(behaviour=behaviour)
        return question

    def _dataset(
        self, texts: Sequence[str], choices: Sequence[str], answers: Sequence[str]
    ) -> token_store.TokenizedDataset:
        if answers:
            rows.check_numbers(texts, answers, "answers")
        targets = answers or [next(iter(choices), "-")] * len(texts)
        examples = [
            {"inputs": text, "targets": target}
            | ({"choices": [*choices]} if choices else {})
            for text, target in zip(texts, targets, strict=True)
        ]
        written = " ||| ".join(choices) or None
        return rows.dataset(
            examples, self.data.vocabulary, has_choices=bool(choices), written=written
        )

    def _with_votes(self, question: queries.Question) -> queries.Question:
        texts = question.query_texts()
        vectors = retrieval.embed_for(self.opened, texts, embedder=self.embedder())
        result = retrieval.retrieve(self.opened, vectors, experts=[*self.folders])
        return question._replace(vectors=vectors, result=result)

    def _score_rows(
        self,
        dataset: token_store.TokenizedDataset,
        names: Sequence[str],
        places: Sequence[int],
    ) -> list[list[list[float]]]:
        """Returns what `queries.ScoreRows` does."""
        scores = self.score([dataset[place] for place in places], names)
        return [[row.tolist() for row in scores[name]] for name in names]

    def _missing_spans(self, question: queries.Question, seed: int) -> queries.Question:
        """Returns what `queries.Question.missing_spans` does."""
        dataset = span_corruption.missing_spans(
            question.dataset,
            question.rows,
            vocabulary=self.data.vocabulary,
            seed=seed,
        )
        return question._replace(
            dataset=dataset,
            rows=tuple(range(len(dataset))),
            score_rows=functools.partial(self._score_rows, dataset),
        )
