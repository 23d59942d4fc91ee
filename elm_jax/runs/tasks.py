"""elm_tasks: list and show tasks, fetch templates, train a vocabulary."""

import dataclasses

import rich
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from elm_jax import errors
from elm_jax.data import promptsource, rendering, vocabulary_training
from elm_jax.data import tasks as task_registry
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Plan, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchTemplates(Run):
    """Fetches PromptSource's templates from the package index.

    Attributes:
      templates_dir: Where they go.
    """

    templates_dir: str = "{MODEL_DIR}/templates"

    def plan(self) -> Plan:
        """Returns where the templates would go."""
        return {"files": self.path(self.templates_dir)}

    def run(self) -> None:
        """Fetches, checks and unpacks them, unless they are there."""
        folder = promptsource.fetch_templates(self.path(self.templates_dir))
        print(f"templates: {folder}")  # noqa: T201


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRun(Run):
    """What runs on rendered, untokenised tasks have.

    Attributes:
      tasks: Names or patterns of tasks and mixtures.
      split: The split to read.
      data_dir: Where file sources find their datasets.
      templates_dir: Where PromptSource's templates were unpacked.
    """

    tasks: str | tuple[str, ...]
    split: str = "train"
    data_dir: str = ""
    templates_dir: str = ""

    def render(self, name: str) -> rendering.RenderedSplit:
        """Returns the texts of a task's split."""
        task = task_registry.registry.task(name)
        if isinstance(task, task_registry.SeqioTask):
            raise errors.ConfigError(
                errors.explain(
                    found=f"{name} is defined in SeqIO alone",
                    expected="a task of elm_jax's registry",
                    do="Look at it with SeqIO's own tools",
                )
            )
        places = task_registry.Places(
            cache_dir="",
            data_dir=self.fill(self.data_dir),
            templates_dir=self.fill(self.templates_dir),
        )
        return rendering.render_split(task, self.split, places)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListTasks(TextRun):
    """Prints tasks with one rendered example each.

    Attributes:
      num_examples: Examples to show of each task; 0 lists names only.
    """

    num_examples: int = 1

    def plan(self) -> Plan:
        """Returns which tasks would be shown."""
        names = task_registry.registry.expand(self.tasks)
        return {"tasks": f"{len(names)}: {', '.join(names)}", "split": self.split}

    def run(self) -> None:
        """Prints them."""
        names = task_registry.registry.expand(self.tasks)
        table = Table(title=f"{len(names)} tasks")
        for column in ("task", "dataset", "cluster", "role", "metrics"):
            table.add_column(column)
        for name in names:
            task = task_registry.registry.task(name)
            fields = ("dataset", "cluster", "role")
            values = [str(getattr(task, field, "")) for field in fields]
            table.add_row(name, *values, ", ".join(getattr(task, "metrics", ())))
        rich.print(table)
        for name in names if self.num_examples else ():
            self._show(name)

    def _show(self, name: str) -> None:
        found = self.render(name)
        dropped = ", ".join(f"{n} {why}" for why, n in found.dropped.items())
        title = f"{name} {self.split}: {len(found)} of {found.num_rows} rows"
        for number in range(min(self.num_examples, len(found))):
            choices = " ||| ".join(found.choices[number])
            text = f"{found.inputs[number]}\n\n-> {found.targets[number]}"
            text += f"\nchoices: {choices}" if choices else ""
            rich.print(Panel(escape(text), title=title, subtitle=dropped or None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainVocabulary(TextRun):
    """Trains a SentencePiece vocabulary on the texts of tasks.

    Attributes:
      vocab_size: Pieces, sentinels not included.
      vocabulary_path: The model file to be.
    """

    vocab_size: int
    vocabulary_path: str = "{MODEL_DIR}/vocabulary.model"

    def plan(self) -> Plan:
        """Returns what would be read and written."""
        names = task_registry.registry.expand(self.tasks)
        return {
            "texts": f"{self.split} of {', '.join(names)}",
            "pieces": self.vocab_size,
            "files": self.path(self.vocabulary_path),
        }

    def run(self) -> None:
        """Trains it, unless it is there."""
        path = self.path(self.vocabulary_path)
        if path.is_file():
            print(f"finished already: {path}")  # noqa: T201
            return
        texts: dict[str, None] = {}  # each once, in a fixed order
        names = task_registry.registry.expand(self.tasks)
        progress = Progress("read", total=len(names), unit="tasks")
        for done, name in enumerate(names, 1):
            found = self.render(name)
            texts.update(dict.fromkeys(filter(None, (*found.inputs, *found.targets))))
            progress(done)
        vocabulary_training.train_vocabulary(texts, path, vocab_size=self.vocab_size)
        print(f"vocabulary: {path}")  # noqa: T201
