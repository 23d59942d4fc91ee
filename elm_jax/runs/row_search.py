"""Looks for the rows that are to be scored among rows that a model may know."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.data import cache, token_store
from elm_jax.evaluation import overlap
from elm_jax.library import index, key_files
from elm_jax.runs import queries, row_words
from elm_jax.runs.progress import Progress

_Answer = TypeVar("_Answer")
Training = tuple[str, str]
"""A training task and the fingerprint of its rows."""
Split = tuple[str, str]
"""A task and one of its splits."""
Places = Mapping[Split, np.ndarray]
"""The places of rows in each split, ascending, each once."""


class RowSearch:
    """Looks for the rows of some splits in other rows.

    All questions have to be to the same library.

    Args:
      splits: The splits whose rows are looked for.
      cache_dir: Where token caches are. None is built.
    """

    def __init__(
        self, splits: Mapping[Split, token_store.TokenizedDataset], cache_dir: str
    ) -> None:
        self._splits = splits
        self._cache_dir = cache_dir
        self._answers: dict[tuple[object, ...], Any] = {}

    @functools.cached_property
    def _search(self) -> overlap.Search:
        datasets = self._splits.values()
        return overlap.Search(
            [row_words.of(dataset, self._cache_dir) for dataset in datasets]
        )

    def in_training(
        self, trainings: Sequence[Training]
    ) -> dict[Training, Places | None]:
        """Returns which rows are also rows of each training; None if those are missing.

        One training task is read after another, since all may not fit in memory.

        Raises:
          DataError: A token cache is damaged.
        """
        progress = Progress(
            "compare with training rows", total=len(trainings), unit="tasks"
        )
        by_training: dict[Training, Places | None] = {}
        for count, (task, fingerprint) in enumerate(trainings, start=1):
            rows = self._words(task, fingerprint)
            places = None if rows is None else self._places([rows])
            by_training[task, fingerprint] = places
            progress(count)
        return by_training

    def in_queries(self, question: queries.Question) -> Places:
        """Returns which rows are among a task's queries to a library."""
        return self._once(
            ("queries", question.task), lambda: self._places([self._queries(question)])
        )

    def in_keys(self, question: queries.Question) -> Places | None:
        """Returns which rows are among the keys of the library that was asked.

        None unless the rows behind all keys are here.
        """
        keys = self._keys(question)
        return self._once(
            ("in keys",), lambda: None if keys is None else self._places(keys)
        )

    def queries_in_keys(self, question: queries.Question) -> float | None:
        """Returns how many of the rows that ask are among the keys, in percent."""
        keys = self._keys(question)
        if keys is None:
            return None

        def share() -> float:
            search = overlap.Search([self._queries(question)])
            places = range(len(question.rows))
            return overlap.share(places, [search.rows_in(texts)[0] for texts in keys])

        return self._once(("queries in keys", question.task), share)

    def _places(self, training_texts: Sequence[overlap.Texts]) -> Places:
        matches = [self._search.rows_in(texts) for texts in training_texts]
        return {
            split: np.unique(np.concatenate([match[place] for match in matches]))
            for place, split in enumerate(self._splits)
        }

    def _words(self, task: str, fingerprint: str) -> overlap.Texts | None:
        try:
            return row_words.find(
                self._cache_dir, task, "train", fingerprint=fingerprint
            )
        except errors.DataError as error:
            reason = errors.first_line(error).removeprefix("Found: ").rstrip(".")
            raise errors.DataError(
                found=f"training rows of {task}, with which those to be scored are"
                f" compared: {reason}",
                expected="a token cache as it was written, or none",
                do="Delete that folder, and build it again to have these rows compared,"
                " as elm_cache does with the settings of the training; or set"
                ' evaluate.Evaluate.overlap = "ignore", which compares nothing',
            ) from error

    def _queries(self, question: queries.Question) -> overlap.Texts:
        return row_words.of(question.dataset, self._cache_dir).rows(question.rows)

    def _keys(self, question: queries.Question) -> list[overlap.Texts] | None:
        """Returns the rows behind a library's keys, of each expert's tasks."""

        def read() -> list[overlap.Texts] | None:
            key_texts: list[overlap.Texts] = []
            for owner in question.keys:
                expert_texts = self._rows_behind(owner, question)
                if expert_texts is None:
                    return None
                key_texts += expert_texts
            return key_texts or None

        return self._once(("keys",), read)

    def _once(self, name: tuple[str, ...], find: Callable[[], _Answer]) -> _Answer:
        """Returns an answer by its name, which is made once for all questions."""
        if name not in self._answers:
            self._answers[name] = find()
        return self._answers[name]

    def _rows_behind(
        self, owner: index.IndexEntry, question: queries.Question
    ) -> list[overlap.Texts] | None:
        """Returns the rows of an expert's keys; None if the rows are not here.

        The index has a hash of the texts that were embedded, which shows other rows.
        """
        info = manifest.read_manifest(question.experts[owner.name])
        rows: list[overlap.Texts] = []
        embedded: list[str] = []
        for source in owner.sources:
            fingerprint = manifest.data_fingerprint(info, source.task)
            dataset = fingerprint and cache.find(
                self._cache_dir,
                source.task,
                source.split,
                fingerprint=fingerprint,
                is_checked=False,
            )
            if not dataset or max(source.rows, default=0) >= len(dataset):
                return None
            places = [*source.rows]
            embedded += queries.instance_texts(dataset, places, question.text_format)
            rows.append(overlap.Texts.of(row_words.texts(dataset, places)))
        is_same = key_files.hash_of_texts(embedded) == owner.texts_sha256
        return rows if is_same else None
