"""How a library is asked which experts fit a task: unlabelled rows of it vote (RoE)."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors, fields, paths
from elm_jax.checkpoints import manifest
from elm_jax.data import token_store
from elm_jax.disk import files
from elm_jax.library import (
    catalogue,
    index,
    key_files,
    retrieval,
    sampling,
    text_formats,
)
from elm_jax.partitioning import processes
from elm_jax.runs import (
    bases,
    data_folder,
    embedders,
    loaded,
    observed,
    task_data,
    vocabularies,
)
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Run

# Of experts by name, and places of rows: of each expert, for each row, the
# log-probabilities of its choices in nats.
ScoreRows = Callable[[Sequence[str], Sequence[int]], list[list[list[float]]]]


class Question(NamedTuple):
    """A task that asked a library, the rows that did, and the answer.

    Attributes:
      task: The task's name.
      dataset: The split that the rows are of.
      rows: Places of the rows, which are not scored. Their labels are not used, but by
        strategies that say so, such as `routers.ByHalving`.
      result: What the library answered.
      experts: Folders of the experts that may be chosen, by name.
      library_dir: Folder of the library.
      library: Hash of the recipes of all of these and of how they are asked, equal
        for libraries of several training seeds; "" unless one seed trained them all.
      training_seed: The seed that trained them all; None if there is no such seed.
      keys: The experts' entries in the index, which tell the rows behind their keys.
      text_format: What these rows and the queries look like to the embedder.
      behaviour: What experts think of the answers to these rows; None unless a
        strategy needs it.
      score_rows: What experts give to the answer choices of some of these rows; None
        unless a strategy asks for it.
      missing_spans: Makes, by a seed, a question of the rows' inputs, whose only answer
        are the spans that are missing in them; None unless a strategy asks for it.
      opened: The keys of the library.
      vectors: What the embedder made of the rows that ask, float32 [rows, width].
      open_split: Gives the tokens and texts of a task's split, such as those of keys.
      ask_again: Embeds the rows and finds their nearest keys, for who measures this.
    """

    task: str
    dataset: token_store.TokenizedDataset
    rows: tuple[int, ...]
    result: retrieval.Retrieval
    experts: Mapping[str, pathlib.Path]
    library_dir: pathlib.Path | None = None
    library: str = ""
    training_seed: int | None = None
    keys: tuple[index.IndexEntry, ...] = ()
    text_format: str = ""
    behaviour: observed.Behaviour | None = None
    open_split: Callable[[str, str], token_store.TokenizedDataset] | None = None
    score_rows: ScoreRows | None = None
    missing_spans: Callable[[int], "Question"] | None = None
    opened: index.Index | None = None
    vectors: np.ndarray | None = None
    ask_again: Callable[[], object] | None = None

    def key_texts(self) -> dict[str, list[str]]:
        """Returns the texts behind the keys of each expert that may be chosen.

        Raises:
          DataError: The rows behind keys are not those that were embedded.
        """
        assert self.open_split is not None  # noqa: S101 - `Queries.ask` gives it
        by_expert: dict[str, list[str]] = {}
        for expert in self.keys:
            texts = by_expert[expert.name] = []
            for source in expert.sources:
                dataset = self.open_split(source.task, source.split)
                rows = [row for row in source.rows if row < len(dataset)]
                texts += instance_texts(dataset, rows, self.text_format)
            if key_files.hash_of_texts(texts) != expert.texts_sha256:
                raise errors.DataError(
                    found=f"other texts of the rows behind the keys of {expert.name!r}",
                    expected="those that were embedded, by their hash in the index",
                    do="Use the data that the library was built with, or build a"
                    " library of these in another folder",
                )
        return by_expert

    def query_texts(self) -> list[str]:
        """Returns the texts of the rows that ask, as they were embedded."""
        return instance_texts(self.dataset, self.rows, self.text_format)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queries:
    """Which library is asked, and by which rows of each task.

    Attributes:
      library_dir: The library's folder.
      initial_checkpoint_path: Folder of the base whose encoder embeds, for the embedder
        `encoder`; "" for the base of the run.
      embedder: The one that made the keys.
      split: Where the queries come from; their labels are not used, but by strategies
        that say so.
      num_queries: Instances that vote.
      random_seed: The seed by which they are chosen.
      votes_path: JSON lines, one per task: its name and all votes.
    """

    library_dir: paths.Path = "{MODEL_DIR}/library"
    initial_checkpoint_path: paths.OptionalPath = ""
    embedder: embedders.EmbedderSpec = embedders.EmbedderSpec()
    split: str = "validation"
    num_queries: fields.Count = sampling.NUM_QUERIES
    random_seed: fields.Seed = 42
    votes_path: paths.Path = "{MODEL_DIR}/votes.jsonl"

    def check_library(
        self, run: Run, data: task_data.TaskData, *, base_path: str = ""
    ) -> dict[str, pathlib.Path]:
        """Returns the folders of the experts that may be retrieved, by name.

        Args:
          run: Whose paths these are.
          data: Whose vocabulary the experts must have.
          base_path: The base of the run, if it has one.

        Raises:
          CheckpointError: An expert is not in its folder.
          FingerprintError: An expert or the base has another vocabulary.
          LibraryError: There is no library, a folder holds another expert than is
            listed, or an expert has no keys.
        """
        listed = catalogue.Catalogue(run.path(self.library_dir))
        listed.check()
        folders = {name: listed.expert_dir(name) for name in listed.experts()}
        infos = [manifest.read_manifest(folder) for folder in folders.values()]
        if base := self.initial_checkpoint_path or base_path:
            infos.append(bases.read_manifest(run.path(base)))
        pieces = data.opened(run.place).vocabulary
        for info in infos:
            vocabularies.check(info, pieces)
        index.open_index(run.path(self.library_dir)).check_has([*folders])
        return folders

    def ask(
        self,
        run: Run,
        tasks: Sequence[str],
        data: task_data.TaskData,
        *,
        base_path: str = "",
    ) -> list[Question]:
        """Returns the votes of every task; the first process writes `votes_path`.

        Args:
          run: Whose paths these are.
          tasks: Names of the tasks.
          data: Vocabulary, lengths and folders of their rows.
          base_path: The base of the run, if it has one.

        Raises:
          ElmError: As `check_library`, or rows are missing.
        """
        data_folder.check(data.data_options(run.place), tasks, (self.split,))
        folders = self.check_library(run, data, base_path=base_path)
        rows = data.opened(run.place)
        opened = index.open_index(run.path(self.library_dir))
        base = self.initial_checkpoint_path or base_path
        embedder = self.embedder.make(
            place=run.place,
            load_base=lambda: loaded.Base.open(run.path(base)),
            load_data=lambda: rows,
        )
        library, seed = self.training_of(run)
        keys = tuple(expert for expert in opened.experts if expert.name in folders)
        progress = Progress("retrieve", total=len(tasks), unit="tasks")
        questions = []
        for done, task in enumerate(tasks, 1):
            dataset = rows.open(task, self.split)
            asking = rows_that_ask(
                opened,
                dataset,
                num_queries=self.num_queries,
                random_seed=self.random_seed,
            )
            texts = instance_texts(dataset, asking, opened.settings.text_format)
            vectors = retrieval.embed_for(opened, texts, embedder=embedder)
            result = retrieval.retrieve(opened, vectors, experts=[*folders])
            retrieve = functools.partial(retrieval.retrieve_for_texts, opened, texts)
            questions.append(
                Question(
                    task,
                    dataset,
                    tuple(asking),
                    result,
                    folders,
                    run.path(self.library_dir),
                    library,
                    seed,
                    keys,
                    opened.settings.text_format,
                    open_split=rows.open,
                    opened=opened,
                    vectors=vectors,
                    ask_again=functools.partial(
                        retrieve, embedder=embedder, experts=[*folders]
                    ),
                )
            )
            progress(done)
        if processes.is_main():
            votes = [{"task": q.task, "votes": q.result.votes} for q in questions]
            text = "".join(f"{json.dumps(line)}\n" for line in votes)
            files.write_text(run.path(self.votes_path), text)
        return questions

    def training_of(self, run: Run) -> tuple[str, int | None]:
        """Returns `library` and `training_seed` of questions to this library.

        Args:
          run: Whose path it is.
        """
        listed = catalogue.Catalogue(run.path(self.library_dir))
        folders = [listed.expert_dir(name) for name in listed.experts()]
        infos = [manifest.read_manifest(folder) for folder in folders]
        settings = index.open_index(run.path(self.library_dir)).settings
        seeds = {info.training_seed for info in infos}
        recipes = sorted((info.name, info.recipe) for info in infos)
        seed = seeds.pop() if len(seeds) == 1 else None
        if seed is None or not all(recipe for _, recipe in recipes):
            return "", None
        asked_by = [dataclasses.asdict(settings), self.split, self.num_queries]
        text = json.dumps([recipes, *asked_by, self.random_seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16], seed


def rows_that_ask(
    opened: index.Index,
    dataset: token_store.TokenizedDataset,
    *,
    num_queries: int,
    random_seed: int,
) -> list[int]:
    """Returns the places of the rows of a task that ask a library; none is a key.

    Args:
      opened: The library's keys.
      dataset: The split that the rows are of.
      num_queries: The number of rows that ask.
      random_seed: The seed by which they are chosen.
    """
    used = len(opened.rows_used(dataset.name, dataset.split))
    parts = sampling.divide_rows(
        len(dataset),
        # Rows that are keys are found by the seed that chose them.
        seed=opened.settings.seed if used else random_seed,
        num_keys=used,
        num_queries=num_queries,
    )
    return parts.queries.tolist()


def instance_texts(
    dataset: token_store.TokenizedDataset, rows: Sequence[int], text_format: str
) -> list[str]:
    """Returns what the chosen examples look like to an embedder; no labels."""
    return [
        text_formats.format_text(
            text_format,
            inputs=example.inputs_text,
            choices=example.choices_text,
            answer_choices=example.answer_choices,
        )
        for example in (dataset[row] for row in rows)
    ]
