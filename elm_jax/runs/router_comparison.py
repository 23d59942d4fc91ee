"""elm_library: what routers choose on some tasks, and what that is worth."""

import dataclasses
import pathlib
from collections.abc import Sequence

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
    routers,
    score_cost,
    scorer,
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
      splits: Whose rows tell the scores, a table of each. Choose by validation rows,
        and read test rows once.
      metric: By which experts are compared.
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
    splits: tuple[str, ...] = ("test",)
    metric: str = "accuracy"
    batch_size: fields.Count = 64
    placement: Placement = Placement()
    random_seed: fields.Seed = 42
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"
    output_path: paths.Path = "{MODEL_DIR}/report/routers.md"

    def check(self) -> None:
        """Raises ConfigError for strategies that ask no library."""
        if not all(isinstance(s, LibraryStrategy) for s in self._strategies()):
            fields.refuse(self, {"strategies": "only such as choose from a library"})

    def _strategies(self) -> tuple[Strategy, ...]:
        return strategies.of(self.strategies)

    def plan(self) -> Plan:
        """Returns what would be asked; looks at library, records and result rows.

        Raises:
          ElmError: As `run` before it scores anything.
        """
        names = self._names()
        folders = self._check(names)
        library_dir = self.path(self.retrieval.library_dir)
        routing = behaviour_scores.plan(
            self._strategies(),
            self.retrieval,
            names,
            self.data.opened(self.place),
            base_dir=self.path(self.initial_checkpoint_path),
            library_dir=library_dir,
            device_flops=score_cost.USUAL_FLOPS,
        )
        return {
            "library": f"{library_dir}, {len(folders)} experts",
            "tasks": f"{len(names)}: {', '.join(names)}",
            "strategies": ", ".join(one.label for one in self._choosing()),
            "scores": f"{self.path(self.results_path)}: {', '.join(self.splits)}",
            **routing,
            "files": self.path(self.output_path),
        }

    def _check(self, names: Sequence[str]) -> list[pathlib.Path]:
        """Returns the folders of the experts, after a look at all that needs no score.

        Raises:
          ElmError: An expert does not fit, a router lacks a record or answer choices,
            or the base or an expert lacks a result row.
        """
        folders = self._asking(names).check()
        base_dir = self.path(self.initial_checkpoint_path)
        data = self.data.opened(self.place)
        expert_checks.check(folders, base_dir=base_dir, vocabulary=data.vocabulary)
        infos = [*map(manifest.read_manifest, folders)]
        for one in self._choosing():
            if isinstance(one, routed_tokens.RoutedTokens):
                one.check_records(
                    infos, self.path(self.retrieval.library_dir), self.path
                )
        for name in names:
            dataset = data.open_if_cached(name, self.retrieval.split)
            if dataset is not None:
                behaviour_scores.check_choices(dataset, self._choosing())
        everyone = [candidates.Candidate("base"), *candidates.of_experts(folders)]
        for split in self.splits:
            rows = self._rows(names, split)
            router_scores.check_scored(rows, everyone, names, split, self.metric)
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
        questions = self._asking(names).questions(program, keys)
        choices = {
            one.label: {
                question.task: one.choose(Target(question.task, self.path, question))
                for question in questions
            }
            for one in self._choosing()
        }
        every = []
        for split in self.splits:
            rows = self._rows(names, split)
            scores = router_scores.Scores(rows, questions, split, self.metric)
            curves = (self._curve(one, scores) for one in self._choosing())
            every += [scores.table(choices), *filter(None, curves)]
        shown = [tables.figures(one) for one in every]
        for table in shown:
            terminal.show(tables.to_rich(table, width=terminal.console().width))
        target = self.path(self.output_path)
        text = "\n\n".join(map(tables.to_markdown, shown))
        files.write_text(target, f"# Routers\n\n{text}\n")
        print(target)  # noqa: T201

    def _choosing(self) -> list[LibraryStrategy]:
        return [s for s in self._strategies() if isinstance(s, LibraryStrategy)]

    def _names(self) -> list[str]:
        names = task_registry.registry.expand(self.tasks)
        data_folder.check(self.data.data_options(self.place), names, self.splits)
        return names

    def _asking(self, names: Sequence[str]) -> asking.Asking:
        given = (self.retrieval, self._strategies(), names, self.data, self)
        return asking.Asking(*given, self.initial_checkpoint_path, "")

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

    def _curve(
        self, one: LibraryStrategy, scores: router_scores.Scores
    ) -> report.Figures | None:
        """Returns what abstaining would cost with a router by behaviour."""
        if not isinstance(one, routers.ByBehaviour) or one.merges or one.abstains:
            return None
        return scores.curve(one)
