"""elm_library: which texts, embedders and rules of votes find good experts."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elm_jax import errors, fields, paths, types
from elm_jax.data import tasks as task_registry
from elm_jax.data import token_store
from elm_jax.disk import files
from elm_jax.evaluation import result_store
from elm_jax.library import index, retrieval, sampling, text_formats, voting
from elm_jax.reporting import tables, terminal
from elm_jax.runs import (
    comparable_rows,
    data_folder,
    library,
    loaded,
    queries,
    retrieval_scores,
    task_data,
)
from elm_jax.runs.embedders import EmbedderSpec
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Plan

_RULES: tuple[retrieval.By, ...] = ("votes", "similarity")


class _Asking(NamedTuple):
    """Rows of a task that ask the library, or are its keys."""

    dataset: token_store.TokenizedDataset
    rows: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareRetrieval(library.LibraryRun):
    """Asks a library's experts in many ways, and scores the answers by result rows.

    No model is scored: the rows tell what each expert scores on each task. The library
    gives the experts, and the rows that are their keys; all else is computed anew and
    kept nowhere. Which expert is retrieved does not depend on the training seed, so
    scores are means over all trainings that the rows are of.

    Attributes:
      tasks: Names or patterns of the tasks that ask.
      data: Vocabulary, lengths and folders of their rows.
      initial_checkpoint_path: Folder of the base, for the embedder `encoder`.
      embedders: What makes keys and queries; the library's own must be among them.
      text_formats: Some of the paper's ten; the library's own must be among them.
      num_nearest: How many of its nearest keys each query looks at: it votes for their
        experts, or adds its similarity to them.
      num_queries: Instances that ask.
      random_seed: The seed by which they are chosen.
      split: Where they come from, and whose other rows tell the scores. Not the split
        on which results are reported: this comparison is a choice.
      metric: The metric by which experts are compared.
      results_path: Result rows of the library's experts.
      output_path: Markdown file of the tables.
    """

    tasks: str | tuple[str, ...]
    data: task_data.TaskData
    initial_checkpoint_path: paths.OptionalPath = ""
    embedders: tuple[EmbedderSpec, ...] = (EmbedderSpec(),)
    text_formats: tuple[str, ...] = text_formats.FORMATS
    num_nearest: tuple[fields.Count, ...] = (1, 10)
    num_queries: fields.Count = sampling.NUM_QUERIES
    random_seed: fields.Seed = 42
    split: str = "validation"
    metric: str = "accuracy"
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"
    output_path: paths.Path = "{MODEL_DIR}/report/retrieval.md"

    def check(self) -> None:
        """Raises ConfigError for a way to ask that does not exist."""
        for name in self.text_formats:
            text_formats.check_format(name)
        wrong = {}
        for name in ("embedders", "text_formats", "num_nearest"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                wrong[name] = "one or more different ones"
        if 1 not in self.num_nearest:
            wrong["num_nearest"] = "1, the paper's, and others"
        fields.refuse(self, wrong)

    def plan(self) -> Plan:
        """Returns what would be compared; looks at the library and the rows.

        Raises:
          ElmError: As `run` before it embeds anything.
        """
        names = self._names()
        opened = index.open_index(self.path(self.library_dir))
        self._scores(self._experts(opened), {})
        number = len(self.embedders) * len(self.text_formats)
        return {
            "library": f"{self.path(self.library_dir)}, {len(opened.names)} experts",
            "tasks": f"{len(names)}: {', '.join(names)}",
            "ways to ask": number * 2 * len(self.num_nearest),
            "texts to embed": number
            * (len(opened.keys) + self.num_queries * len(names)),
            "files": self.path(self.output_path),
        }

    def run(self) -> None:
        """Prints the tables and writes them down.

        Raises:
          DataError: An expert lacks a score, or a row that asks was scored as well.
          LibraryError: There is no library, or its way to ask is not among these.
        """
        names = self._names()
        opened = index.open_index(self.path(self.library_dir))
        experts = self._experts(opened)
        data = self.data.opened(self.place)
        asking = {name: self._asking(opened, data, name) for name in names}
        scores = self._scores(
            experts, {n: task_rows.rows for n, task_rows in asking.items()}
        )
        choices: dict[retrieval_scores.Setting, Mapping[str, str]] = {}
        own_setting: retrieval_scores.Setting | None = None
        for setting, is_own, choice in self._ask(opened, [*experts], asking, data):
            choices[setting] = choice
            own_setting = setting if is_own else own_setting
        if own_setting is None:
            raise errors.LibraryError(
                found=f"a library with keys by {opened.settings.embedder} of texts"
                f" {opened.settings.text_format!r}",
                expected="its own embedder and text format among those to compare",
                do="Add them to embedders and text_formats. If they are there, the keys"
                " were made when the embedder had another name: build the index anew",
            )
        shown = [
            tables.figures(figures) for figures in scores.compare(choices, own_setting)
        ]
        for table in shown:
            terminal.show(tables.to_rich(table, width=terminal.console().width))
        target = self.path(self.output_path)
        text = "\n\n".join(map(tables.to_markdown, shown))
        files.write_text(target, f"# Ways to ask the library\n\n{text}\n")
        print(target)  # noqa: T201

    def _names(self) -> list[str]:
        names = task_registry.registry.expand(self.tasks)
        data_folder.check(self.data.data_options(self.place), names, (self.split,))
        return names

    def _experts(self, opened: index.Index) -> dict[str, str]:
        """Returns the fingerprints of the experts that may be chosen, by name."""
        listed = self.open_catalogue()
        listed.check()
        fingerprints = {name: listed.get(name).fingerprint for name in listed.experts()}
        opened.check_has([*fingerprints])
        return fingerprints

    def _scores(
        self, experts: Mapping[str, str], asking: Mapping[str, Sequence[int]]
    ) -> retrieval_scores.Scores:
        shown = comparable_rows.Shown(
            tables={"Asking": self._names()},
            split=self.split,
            selection_split=self.split,
            metrics=(self.metric,),
        )
        store = result_store.ResultStore(self.path(self.results_path))
        rows = comparable_rows.ComparableRows(store, {}, shown)
        return retrieval_scores.Scores(
            rows,
            rows.of(self._names(), split=self.split, metric=self.metric),
            experts=experts,
            asking=asking,
        )

    def _asking(
        self, opened: index.Index, data: task_data.OpenedData, task: str
    ) -> _Asking:
        dataset = data.open(task, self.split)
        rows = queries.rows_that_ask(
            opened,
            dataset,
            num_queries=self.num_queries,
            random_seed=self.random_seed,
        )
        return _Asking(dataset, rows)

    def _ask(
        self,
        opened: index.Index,
        experts: Sequence[str],
        asking: Mapping[str, _Asking],
        data: task_data.OpenedData,
    ) -> Iterator[tuple[retrieval_scores.Setting, bool, dict[str, str]]]:
        """Yields each way to ask, whether it is the library's, and its answers."""
        sources = [
            _Asking(data.open(source.task, source.split), [*source.rows])
            for expert in opened.experts
            for source in expert.sources
        ]
        total = len(self.embedders) * len(self.text_formats)
        progress = Progress("compare", total=total, unit="formats")
        count = 0
        labels = _labels(self.embedders)
        for spec, label in zip(self.embedders, labels, strict=True):
            embedder = self._embedder(spec, data)
            for text_format in self.text_formats:
                keys = [_embed(embedder, source, text_format) for source in sources]
                reindexed = dataclasses.replace(opened, keys=np.concatenate(keys))
                vectors = {
                    task: _embed(embedder, task_rows, text_format)
                    for task, task_rows in asking.items()
                }
                format_key = (embedder.name, text_format)
                settings = opened.settings
                is_own = format_key == (settings.embedder, settings.text_format)
                for number, by in itertools.product(self.num_nearest, _RULES):
                    choice = {
                        task: voting.ranked(
                            reindexed,
                            query_vectors,
                            num_nearest=number,
                            by=by,
                            experts=experts,
                        )[0][0]
                        for task, query_vectors in vectors.items()
                    }
                    yield (
                        retrieval_scores.Setting(label, text_format, number, by),
                        is_own and (number, by) == (1, "votes"),
                        choice,
                    )
                count += 1
                progress(count)

    def _embedder(
        self, spec: EmbedderSpec, data: task_data.OpenedData
    ) -> types.Embedder:
        return spec.make(
            place=self.place,
            load_base=lambda: loaded.Base.open(self.path(self.initial_checkpoint_path)),
            load_data=lambda: data,
        )


def _labels(specs: Sequence[EmbedderSpec]) -> list[str]:
    """Returns a name for each embedder: its kind, and where it differs from others."""
    labels = []
    for spec in specs:
        peers = [peer for peer in specs if peer.kind == spec.kind]
        parts = [spec.kind]
        if len({peer.path for peer in peers}) > 1:
            parts.append(spec.path or "of the package")
        if len({peer.max_length for peer in peers}) > 1:
            parts.append(f"of {spec.max_length} tokens")
        labels.append(" ".join(parts))
    return labels


def _embed(embedder: types.Embedder, asking: _Asking, text_format: str) -> np.ndarray:
    texts = queries.instance_texts(asking.dataset, asking.rows, text_format)
    return np.asarray(embedder.embed(texts), np.float32)
