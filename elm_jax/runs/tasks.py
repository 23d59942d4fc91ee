"""elm_tasks: list, filter and show tasks, fetch templates, train a vocabulary."""

import dataclasses
import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from elm_jax import errors, fields, paths
from elm_jax.checkpoints import recipes
from elm_jax.data import promptsource, rendering, serving, vocabulary_training
from elm_jax.data import tasks as task_registry
from elm_jax.data import vocabulary as vocabularies
from elm_jax.disk import files
from elm_jax.library import lock
from elm_jax.limits import limited
from elm_jax.reporting import task_page
from elm_jax.runs import data_folder, task_cards, task_survey
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Plan, Run

# Padding, end, unknown and one more piece at least.
VocabSize = Annotated[int, fields.Range(4, 2**31, is_open_above=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchTemplates(Run):
    """Fetches PromptSource's templates from the package index.

    Attributes:
      templates_dir: Where they go.
    """

    templates_dir: paths.Path = "{MODEL_DIR}/templates"

    def plan(self) -> Plan:
        """Returns where the templates would go."""
        return {"files": self.path(self.templates_dir)}

    def run(self) -> None:
        """Fetches, checks and unpacks them, unless they are there."""
        folder = promptsource.fetch_templates(self.path(self.templates_dir))
        print(f"templates: {folder}")  # noqa: T201


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRun(Run):
    """Fields of runs on rendered, untokenised tasks.

    Attributes:
      tasks: Names or patterns of tasks and mixtures.
      split: The split to read.
      data_dir: Where file sources find their datasets.
      templates_dir: Where PromptSource's templates were unpacked.
      sources: Kinds of sources, the preferred one first, as in a run's task data;
        `("examples",)` shows rows made by hand and needs no data.
      protocol: Whose choice of rows: "" for ours, `elm` for the original code's.
      limits: What a template that is not official may cost for a row.
    """

    tasks: str | tuple[str, ...]
    split: str = "train"
    data_dir: paths.OptionalPath = ""
    templates_dir: paths.OptionalPath = ""
    sources: tuple[str, ...] = serving.DEFAULT_ORDER
    protocol: str = ""
    limits: limited.Limits = dataclasses.field(default_factory=limited.current)

    @property
    def data_options(self) -> task_registry.DataOptions:
        """The folders of data and templates."""
        return task_registry.DataOptions(
            cache_dir="",
            data_dir=self.place(self.data_dir),
            templates_dir=self.place(self.templates_dir),
            sources=self.sources,
            protocol=self.protocol,
            limits=self.limits,
        )

    def check_folder(self, names: list[str]) -> None:
        """Raises ConfigError if there is no data folder and tasks need one."""
        data_folder.check(self.data_options, names, (self.split,))

    def render(self, name: str) -> rendering.RenderedSplit:
        """Returns the texts of a task's split."""
        task = task_registry.registry.task(name)
        if isinstance(task, task_registry.SeqioTask):
            raise errors.ConfigError(
                found=f"{name} is defined in SeqIO alone",
                expected="a task of elm_jax's registry",
                do="Look at it with SeqIO's own tools",
            )
        return rendering.render_split(task, self.split, self.data_options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListTasks(TextRun):
    """Lists tasks with what became of their rows, and shows some as examples.

    Attributes:
      dataset: Keeps tasks whose dataset matches this shell pattern; "" keeps all.
      cluster: Keeps tasks whose cluster matches this shell pattern; "" keeps all.
      role: Keeps tasks whose role matches this shell pattern; "" keeps all.
      metric: Keeps tasks that have a metric of such a name; "" keeps all.
      num_examples: Examples to show of each task; 0 only lists.
      num_rows: Rows to read of each task, the first ones; 0 for all.
      vocabulary_path: A SentencePiece model to count tokens with; "" leaves them out.
      extra_ids: Its sentinels, as in TaskData.
      feature_lengths: Tokens of `inputs` and `targets` above which texts are cut.
      max_value_chars: Characters to which templates cut what they print; 0 for none.
      html_path: A page of the same; "" writes none.
    """

    dataset: str = ""
    cluster: str = ""
    role: str = ""
    metric: str = ""
    num_examples: fields.CountOrNone = 1
    num_rows: fields.CountOrNone = 0
    vocabulary_path: paths.OptionalPath = ""
    extra_ids: fields.Sentinels = 100
    feature_lengths: Mapping[str, fields.Length] = dataclasses.field(
        default_factory=lambda: {"inputs": 512, "targets": 64}
    )
    max_value_chars: fields.CountOrNone = 0
    html_path: paths.OptionalPath = ""

    def plan(self) -> Plan:
        """Returns which tasks would be shown.

        Raises:
          ConfigError: There is no data folder, and no task can do without.
        """
        names = self.names()
        plan: Plan = {"tasks": f"{len(names)}: {', '.join(names)}", "split": self.split}
        lacking = data_folder.lacking(self.data_options, names, (self.split,))
        if len(lacking) == len(names):
            self.check_folder(names)
        if lacking:
            plan["lack a data folder"] = ", ".join(lacking)
        return plan | ({"files": self.path(self.html_path)} if self.html_path else {})

    def names(self) -> list[str]:
        """Returns the tasks that pass all filters.

        Raises:
          ConfigError: None does.
        """
        names = task_registry.registry.expand(self.tasks)
        chosen_names = [name for name in names if self._is_wanted(name)]
        if not chosen_names:
            filters = ("dataset", "cluster", "role", "metric")
            used = [f"{f} = {getattr(self, f)!r}" for f in filters if getattr(self, f)]
            raise errors.ConfigError(
                found=f"none of {len(names)} tasks with {', '.join(used)}",
                expected="filters that some of the tasks pass",
                do="Correct them; they are shell patterns, such as `*QA*`",
            )
        return chosen_names

    def run(self) -> None:
        """Prints them, and writes the page if asked.

        Raises:
          ElmError: No task can be read; the first one's reason.
        """
        names = self.names()
        vocabulary_path = self.place(self.vocabulary_path)
        surveyor = task_survey.Surveyor(
            split=self.split,
            data_options=self.data_options,
            features=task_registry.Features(
                inputs_length=self.feature_lengths["inputs"],
                targets_length=self.feature_lengths["targets"],
                max_value_chars=self.max_value_chars,
            ),
            vocabulary=vocabularies.SentencePiece(vocabulary_path, self.extra_ids)
            if vocabulary_path
            else None,
            num_rows=self.num_rows,
            num_examples=self.num_examples,
        )
        cards: list[task_page.TaskCard] = []
        progress = Progress("read", total=len(names), unit="tasks")
        for done, name in enumerate(names, 1):
            cards.append(surveyor.survey(name))
            progress(done)
        if all(card.problem for card in cards):
            self.check_folder(names)
            self.render(names[0])  # raises, with the type that the problem has
        task_cards.show(cards, self.split)
        if self.html_path:
            page, title = self.path(self.html_path), f"{len(cards)} tasks, {self.split}"
            files.write_text(page, task_page.render(title, cards))
            print(f"page: {page}")  # noqa: T201

    def _is_wanted(self, name: str) -> bool:
        task = task_registry.registry.task(name)
        for field in ("dataset", "cluster", "role"):
            pattern = getattr(self, field)
            if pattern and not fnmatch.fnmatch(getattr(task, field, ""), pattern):
                return False
        metrics = getattr(task, "metrics", ())
        return not self.metric or bool(fnmatch.filter(metrics, self.metric))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainVocabulary(TextRun):
    """Trains a SentencePiece vocabulary on the texts of tasks.

    Attributes:
      vocab_size: Pieces, sentinels not included.
      vocabulary_path: The model file to be.
    """

    vocab_size: VocabSize
    vocabulary_path: paths.Path = "{MODEL_DIR}/vocabulary.model"

    def plan(self) -> Plan:
        """Returns what would be read and written; reads no text.

        Raises:
          CheckpointError: Another vocabulary is there.
        """
        names = task_registry.registry.expand(self.tasks)
        self.check_folder(names)
        return {
            "finished already": self._is_finished(self._recipe(None)),
            "texts": f"{self.split} of {', '.join(names)}",
            "pieces": self.vocab_size,
            "files": self.path(self.vocabulary_path),
        }

    def run(self) -> None:
        """Trains it, unless the same one is there.

        Raises:
          CheckpointError: Another one is there.
          DataError: The texts cannot be read, or are too few.
        """
        path = self.path(self.vocabulary_path)
        record = recipes.beside(path)
        texts = self._texts()
        # It and its recipe are two files, which must not be of two processes.
        with lock.hold(path.parent):
            if self._is_finished(self._recipe(texts)):
                print(f"finished already: {path}")  # noqa: T201
                return
            # The recipe goes first: a vocabulary without one would not be compared.
            recipes.write(record, self._recipe(texts))
            vocabulary_training.train_vocabulary(
                texts, path, vocab_size=self.vocab_size
            )
        print(f"vocabulary: {path}")  # noqa: T201

    def _texts(self) -> dict[str, None]:
        """Returns all texts, each once, in a fixed order."""
        texts: dict[str, None] = {}
        names = task_registry.registry.expand(self.tasks)
        self.check_folder(names)
        progress = Progress("read", total=len(names), unit="tasks")
        for done, name in enumerate(names, 1):
            split = self.render(name)
            texts.update(dict.fromkeys(filter(None, (*split.inputs, *split.targets))))
            progress(done)
        return texts

    def _recipe(self, texts: Iterable[str] | None) -> dict[str, Any]:
        """Returns what decides the vocabulary; without the texts if there are none."""
        recipe: dict[str, Any] = {"vocab_size": self.vocab_size, "split": self.split}
        recipe["tasks"] = task_registry.registry.expand(self.tasks)
        if texts is not None:
            content = json.dumps(list(texts)).encode()
            recipe["texts"] = hashlib.sha256(content).hexdigest()
        return recipe

    def _is_finished(self, recipe: dict[str, Any]) -> bool:
        """Returns whether this very vocabulary is there; one of release 0.1 counts.

        Raises:
          CheckpointError: Another one is there.
        """
        path = self.path(self.vocabulary_path)
        if not path.is_file():
            return False
        record = recipes.beside(path)
        if record.is_file():
            saved_recipe = recipes.read(record)
        else:
            pieces = vocabularies.SentencePiece(str(path), extra_ids=0)
            saved_recipe = {"vocab_size": pieces.size}
        shared_names = saved_recipe.keys() & recipe.keys()
        recipes.check_same(
            f"vocabulary {path}",
            {name: saved_recipe[name] for name in shared_names},
            {name: recipe[name] for name in shared_names},
        )
        return True
