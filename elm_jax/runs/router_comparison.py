"""elm_library: what routers choose on some tasks, and what that is worth."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TypeGuard

from elm_jax import fields, paths
from elm_jax.checkpoints import manifest
from elm_jax.data import tasks as task_registry
from elm_jax.disk import files
from elm_jax.evaluation import result_store
from elm_jax.model import decoding_spec
from elm_jax.reporting import report, tables, terminal
from elm_jax.runs import (
    asking,
    bases,
    behaviour_scores,
    candidates,
    comparable_rows,
    data_folder,
    expert_checks,
    jobs,
    library,
    loaded,
    queries,
    routed_tokens,
    router_scores,
    router_table,
    router_times,
    routers,
    routing_cost,
    score_cost,
    scorer,
    several_libraries,
    strategies,
    task_data,
)
from elm_jax.runs.placement import Placement
from elm_jax.runs.run import Plan
from elm_jax.runs.strategy import LibraryStrategy, Strategy, Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareRouters(library.LibraryRun):
    """Asks a library by many strategies, and scores their choices by result rows.

    Tasks are scored by nothing here: the score of a choice is that of a row of the very
    parameters, whoever had them scored: a chosen expert's is the expert's. So merges
    and token routers have to be scored by elm_eval before. Rows that ask are scored
    where a strategy looks at what experts make of them; this is kept with the library.

    Attributes:
      tasks: Names or patterns of the tasks that ask.
      data: Vocabulary, lengths and folders of their rows.
      initial_checkpoint_path: Folder of the base.
      strategies: Those of an evaluation that choose from a library.
      retrieval: How the library is asked; as by the evaluation whose rows these are.
      libraries: Folders of libraries, or shell patterns of them, one for each training
        of the same experts; each is asked likewise, and has its votes in its own
        folder. () for that of `retrieval`.
      splits: Whose rows tell the scores, a table of each. Choose by validation rows,
        and read test rows once.
      metric: By which experts are compared.
      baseline: Name of the strategy that all are compared with; "" for the base.
      num_timed: Of how many tasks it is measured what each router takes, in the first
        library; 0 for none.
      batch_size: Examples per call, over all devices.
      placement: How parameters and batches lie over the devices.
      random_seed: Of the evaluation whose rows these are.
      results_path: Result rows of base, experts, merges and token routers.
      output_path: Markdown file of the tables.
    """

    tasks: str | tuple[str, ...]
    data: task_data.TaskData
    initial_checkpoint_path: paths.Path
    strategies: tuple[Strategy | str, ...]
    retrieval: queries.Queries
    libraries: paths.Patterns = ()
    splits: tuple[str, ...] = ("test",)
    metric: str = "accuracy"
    baseline: str = ""
    num_timed: fields.CountOrNone = 1
    batch_size: fields.Count = 64
    placement: Placement = Placement()
    random_seed: fields.Seed = 42
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"
    output_path: paths.Path = "{MODEL_DIR}/report/routers.md"

    def check(self) -> None:
        """Raises ConfigError for strategies that ask no library, or no baseline."""
        if not all(isinstance(s, LibraryStrategy) for s in self._strategies()):
            fields.refuse(self, {"strategies": "only such as choose from a library"})
        labels = [strategy.label for strategy in self._choosing()]
        if self.baseline and self.baseline not in labels:
            fields.refuse(self, {"baseline": f"one of {', '.join(labels)}"})

    def _strategies(self) -> tuple[Strategy, ...]:
        return strategies.of(self.strategies)

    def plan(self) -> Plan:
        """Returns what would be asked; looks at library, records and result rows.

        Raises:
          ElmError: As `run` before it scores anything.
        """
        names = self._names()
        folders = self._check(names)
        retrievals = self._retrievals()
        library_paths = ", ".join(f"{self.path(x.library_dir)}" for x in retrievals)
        routing = routing_cost.plan(
            self._strategies(),
            retrievals[0],
            names,
            self.data.opened(self.place),
            base_dir=self.path(self.initial_checkpoint_path),
            library_dir=self.path(retrievals[0].library_dir),
            device_flops=score_cost.USUAL_FLOPS,
        )
        if len(retrievals) > 1:
            routing = {f"{name}, of each library": x for name, x in routing.items()}
        return {
            "library": f"{library_paths}, {len(folders)} experts",
            "tasks": f"{len(names)}: {', '.join(names)}",
            "strategies": ", ".join(strategy.label for strategy in self._choosing()),
            "scores": f"{self.path(self.results_path)}: {', '.join(self.splits)}",
            **routing,
            "files": self.path(self.output_path),
        }

    def _retrievals(self) -> list[queries.Queries]:
        return several_libraries.retrievals(self.retrieval, self.libraries, self)

    def _check(self, names: Sequence[str]) -> list[pathlib.Path]:
        """Returns the folders of the experts, after a look at all that needs no score.

        Raises:
          ElmError: An expert does not fit, a router lacks a record or answer choices,
            the base or an expert lacks a result row, or libraries are not of several
            trainings of the same experts.
        """
        every, retrievals = [], self._retrievals()
        for retrieval in retrievals:
            every += self._check_library(retrieval, names)
        several_libraries.check(retrievals, self)
        everyone = [candidates.Candidate("base"), *candidates.of_experts(every)]
        for split in self.splits:
            rows = self._rows(names, split)
            router_scores.check_scored(rows, everyone, names, split, self.metric)
        return every

    def _check_library(
        self, retrieval: queries.Queries, names: Sequence[str]
    ) -> list[pathlib.Path]:
        folders = self._asking(retrieval, names).check()
        base_dir = self.path(self.initial_checkpoint_path)
        data = self.data.opened(self.place)
        expert_checks.check(folders, base_dir=base_dir, vocabulary=data.vocabulary)
        infos = [*map(manifest.read_manifest, folders)]
        for strategy in self._choosing():
            strategy.check_experts(infos)
            if isinstance(strategy, routed_tokens.RoutedTokens):
                library_dir = self.path(retrieval.library_dir)
                strategy.check_records(infos, library_dir, self.path)
        for name in names:
            dataset = data.open_if_cached(name, retrieval.split)
            if dataset is not None:
                behaviour_scores.check_choices(dataset, self._choosing())
        return folders

    def run(self) -> None:
        """Prints the tables and writes them down.

        Raises:
          DataError: Base or expert lack a score, were scored on different rows, or on
            rows that ask.
          LibraryError: There is no library.
        """
        names = self._names()
        self._check(names)
        data = self.data.opened(self.place)
        base = loaded.Base.open(self.path(self.initial_checkpoint_path))
        keys = jobs.Keys(
            base=base,
            data=data,
            rows_of=self.data.protocol,
            claimed="",
            seed=self.random_seed,
            length_normalized=False,
            decoding=decoding_spec.GREEDY,
        )
        size, where = self.batch_size, self.placement
        program = scorer.Scorer(base, data, batch_size=size, where=where)
        answered = [
            self._asking(retrieval, names).questions(program, keys)
            for retrieval in self._retrievals()
        ]
        choices = [self._choices(questions) for questions in answered]
        ranked = [q for q in answered[0] if q.dataset.has_choices]
        times = router_times.measure(
            self._choosing(),
            [self._target(question) for question in ranked[: self.num_timed]],
            program,
            base,
        )
        shown: list[report.Figures] = []
        for split in self.splits:
            rows = self._rows(names, split)
            trainings = [
                router_table.Training(
                    router_scores.Scores(rows, questions, split, self.metric), chosen
                )
                for questions, chosen in zip(answered, choices, strict=True)
            ]
            table = router_table.Table(trainings, times, self.baseline)
            shown.append(table.figures)
            for strategy in self._choosing():
                if _has_curve(strategy):
                    shown.append(router_table.curve(trainings, strategy))
        texts = [tables.figures(figures) for figures in shown]
        for table in texts:
            terminal.show(tables.to_rich(table, width=terminal.console().width))
        target = self.path(self.output_path)
        text = "\n\n".join(map(tables.to_markdown, texts))
        files.write_text(target, f"# Routers\n\n{text}\n")
        print(target)  # noqa: T201

    def _target(self, question: queries.Question) -> Target:
        return Target(question.task, self.path, question)

    def _choices(
        self, questions: Sequence[queries.Question]
    ) -> dict[str, router_scores.Choices]:
        """Returns each router's choice for each task."""
        return {
            strategy.label: {
                question.task: strategy.choose(self._target(question))
                for question in questions
            }
            for strategy in self._choosing()
        }

    def _choosing(self) -> list[LibraryStrategy]:
        return [s for s in self._strategies() if isinstance(s, LibraryStrategy)]

    def _names(self) -> list[str]:
        names = task_registry.registry.expand(self.tasks)
        data_folder.check(self.data.data_options(self.place), names, self.splits)
        return names

    def _asking(
        self, retrieval: queries.Queries, names: Sequence[str]
    ) -> asking.Asking:
        arguments = (retrieval, self._strategies(), names, self.data, self)
        return asking.Asking(*arguments, self.initial_checkpoint_path, "")

    def _rows(self, names: Sequence[str], split: str) -> comparable_rows.ComparableRows:
        shown = comparable_rows.Shown(
            tables={"Asking": names},
            split=split,
            selection_split=split,
            metrics=(self.metric,),
        )
        store = result_store.ResultStore(self.path(self.results_path))
        base = bases.read_fingerprint(self.path(self.initial_checkpoint_path))
        only = {"seed": self.random_seed, "base_fingerprint": base}
        return comparable_rows.ComparableRows(store, only, shown)


def _has_curve(strategy: LibraryStrategy) -> TypeGuard[routers.ByBehaviour]:
    """Returns whether the curve of abstaining is shown for a router."""
    is_by_behaviour = isinstance(strategy, routers.ByBehaviour)
    return is_by_behaviour and not strategy.merges and not strategy.abstains
