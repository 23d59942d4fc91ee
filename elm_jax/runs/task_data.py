"""Where a run's tokens come from: vocabulary, lengths and folders in one value."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import errors, fields, paths
from elm_jax.data import (
    cache,
    packing,
    rendering,
    serving,
    shapes,
    tasks,
    templates,
    token_store,
    vocabulary,
)
from elm_jax.limits import limited
from elm_jax.runs import data_doubts, vocabularies
from elm_jax.runs.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskData:
    """How tasks become token caches; one value shared by all runs of a project.

    In every path, `{MODEL_DIR}` stands for the run's work folder and `{PACKAGE}` for
    the folder that holds the packages `elm_jax` and `tasks`.

    Attributes:
      vocabulary_path: A SentencePiece model; or the folder of a base, which brings its
        own, and with it the number of sentinels.
      feature_lengths: Tokens of `inputs` and `targets`, end tokens included.
      extra_ids: Sentinels above the model's own pieces, or those among them.
      inputs_eos: Whether inputs end with the end token.
      cache_dir: Where token caches are kept.
      data_dir: Where file sources find their datasets.
      templates_dir: Where PromptSource's templates were unpacked.
      sources: Kinds of sources, the preferred one first: `files` (the authors'),
        `tfds`, `p3`, `hub`; a dataset comes from the first that has it. `examples` are
        a few rows made by hand, to look at.
      protocol: Whose choice of rows: "" for ours, `elm` for the original code's where
        it is one; `tasks/README.md` has the difference.
      max_value_chars: Characters to which templates cut what they print; 0 for none,
        2048 for PromptSource's, T0's and the original ELM's cut.
      limits: What a template that is not official may cost for a row.
    """

    vocabulary_path: paths.Path
    feature_lengths: Mapping[str, fields.Length]
    extra_ids: fields.Sentinels = 100
    inputs_eos: bool = True
    cache_dir: paths.Path = "{MODEL_DIR}/cache"
    data_dir: paths.OptionalPath = ""
    templates_dir: paths.OptionalPath = ""
    sources: tuple[str, ...] = serving.DEFAULT_ORDER
    protocol: str = ""
    max_value_chars: fields.CountOrNone = 0
    limits: limited.Limits = dataclasses.field(default_factory=limited.current)

    def __post_init__(self) -> None:
        lengths = self.feature_lengths
        if not isinstance(lengths, Mapping) or set(lengths) != {"inputs", "targets"}:
            raise errors.ConfigError(
                found=f"feature_lengths = {lengths!r}",
                expected='{"inputs": tokens, "targets": tokens}',
                do="Correct TASK_FEATURE_LENGTHS",
            )
        fields.check(self)

    @property
    def features(self) -> tasks.Features:
        """The lengths, as the data room has them."""
        return tasks.Features(
            inputs_length=self.feature_lengths["inputs"],
            targets_length=self.feature_lengths["targets"],
            inputs_eos=self.inputs_eos,
            max_value_chars=self.max_value_chars,
        )

    def common_shapes(
        self, datasets: Sequence[token_store.TokenizedDataset], *, num_shapes: int
    ) -> tuple[shapes.Lengths, ...]:
        """Returns the lengths of batches of datasets that share compiled programs.

        Args:
          datasets: All of them; of none there are no shapes.
          num_shapes: Length buckets; 0 for rows that are packed, of one shape.
        """
        if not datasets:
            return ()
        columns = [dataset.columns for dataset in datasets]
        lengths = np.concatenate(
            [np.stack([c.inputs.lengths, c.targets.lengths], axis=1) for c in columns]
        )
        if not num_shapes:
            return (packing.choose_row(lengths, self.features),)
        return shapes.choose_shapes(lengths, num_shapes=num_shapes)

    def opened(self, place: Callable[[str], str]) -> "OpenedData":
        """Returns the vocabulary and folders with absolute paths.

        Args:
          place: Makes such a path of a text; `Run.place`.

        Raises:
          ConfigError: The folder of a base brings no vocabulary.
        """
        return self.placed(place).opened()

    def placed(self, place: Callable[[str], str]) -> "PlacedData":
        """Returns this with absolute paths; `place` as for `opened`."""
        return PlacedData(
            self, pathlib.Path(place(self.vocabulary_path)), self.data_options(place)
        )

    def data_options(self, place: Callable[[str], str]) -> tasks.DataOptions:
        """Returns the absolute folders; `place` as for `opened`."""
        return tasks.DataOptions(
            cache_dir=place(self.cache_dir),
            data_dir=place(self.data_dir),
            templates_dir=place(self.templates_dir),
            sources=self.sources,
            protocol=self.protocol,
            limits=self.limits,
        )

    def settings(self, vocabulary_fingerprint: str) -> dict[str, Any]:
        """Returns the settings that decide tokens, by name; no folder is among them.

        Args:
          vocabulary_fingerprint: The fingerprint of the opened vocabulary.
        """
        return {
            "vocabulary": vocabulary_fingerprint,
            "feature_lengths": dict(self.feature_lengths),
            "inputs_eos": self.inputs_eos,
            "sources": list(self.sources),
            "protocol": self.protocol,
            "max_value_chars": self.max_value_chars,
        }


@dataclasses.dataclass(frozen=True)
class PlacedData:
    """What tokens are made of, with absolute paths; nothing is read yet."""

    options: TaskData
    vocabulary_path: pathlib.Path
    data_options: tasks.DataOptions

    def opened(self) -> "OpenedData":
        """Returns the vocabulary and folders.

        Raises:
          ConfigError: The folder of a base brings no vocabulary.
        """
        path, extra_ids = self.vocabulary_path, self.options.extra_ids
        return OpenedData(
            vocabulary=vocabularies.of_base(path)
            if path.is_dir()
            else vocabulary.SentencePiece(str(path), extra_ids),
            features=self.options.features,
            data_options=self.data_options,
        )


@dataclasses.dataclass(frozen=True)
class OpenedData:
    """A vocabulary, lengths and folders, ready to open token caches."""

    vocabulary: vocabulary.SentencePiece
    features: tasks.Features
    data_options: tasks.DataOptions

    def open(self, task: str, split: str) -> token_store.TokenizedDataset:
        """Returns a task's split as tokens, from the cache or built into it."""
        with errors.during(f"reading {split} of task {task}"):
            return cache.open_cache(
                task,
                split,
                vocabulary=self.vocabulary,
                features=self.features,
                data_options=self.data_options,
                progress=Progress(f"cache {task} {split}"),
            )

    def template_text(self, task: str) -> str:
        """Returns the text of a task's template; "" if it has none, or none is here."""
        registered = tasks.registry.task(task)
        if isinstance(registered, tasks.SeqioTask):
            return ""
        with contextlib.suppress(errors.ElmError):  # tokens may be there without it
            template = rendering.load_template(registered, "train", self.data_options)
            if isinstance(template, templates.Template):
                return template.jinja
        return ""

    def licences(self, names: Iterable[str]) -> dict[str, str]:
        """Returns the licences of the rows of tasks, where they are known."""
        registered = {name: tasks.registry.task(name) for name in names}
        licences = {
            name: getattr(task, "licence", "") for name, task in registered.items()
        }
        return {name: licence for name, licence in licences.items() if licence}

    def fingerprint_if_cached(self, task: str, split: str) -> str | None:
        """Returns the fingerprint of a split's rows; None if it is not cached here."""
        dataset = self.open_if_cached(task, split)
        return None if dataset is None else dataset.fingerprint

    def open_if_cached(
        self, task: str, split: str
    ) -> token_store.TokenizedDataset | None:
        """Returns a task's split as tokens; None if it is not cached here."""
        try:
            build = cache.planned(
                task,
                split,
                vocabulary=self.vocabulary,
                features=self.features,
                data_options=self.data_options,
            )
        except (errors.DataError, errors.TemplateError):  # the rows are not here
            return None
        return self.open(task, split) if build.folder.is_dir() else None

    def describe(self, dataset: token_store.TokenizedDataset) -> dict[str, Any]:
        """Returns what a manifest records of a dataset."""
        return data_doubts.describe(dataset)
