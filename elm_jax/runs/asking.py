"""How an evaluation asks its library, for all strategies at once."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from elm_jax.checkpoints import manifest
from elm_jax.data import span_corruption
from elm_jax.library import catalogue
from elm_jax.runs import (
    bases,
    behaviour_scores,
    former_retrieval,
    jobs,
    queries,
    routing_cost,
    score_cost,
    scorer,
    shards,
    task_data,
)
from elm_jax.runs.run import Plan, Run
from elm_jax.runs.strategy import LibraryStrategy, Strategy


class Asking(NamedTuple):
    """The library of an evaluation, and the strategies that ask it.

    Attributes:
      retrieval: How it is asked; None if it is not.
      strategies: All of the evaluation.
      tasks: Names of its tasks.
      data: Vocabulary, lengths and folders of their rows.
      run: The evaluation.
      base_path: The folder of the evaluation's base.
      shard: The part of its candidates that this process scores.
    """

    retrieval: queries.Queries | None
    strategies: Sequence[Strategy]
    tasks: Sequence[str]
    data: task_data.TaskData
    run: Run
    base_path: str
    shard: str

    def check(self) -> list[pathlib.Path]:
        """Returns the folders of the experts that may be chosen.

        Raises:
          ElmError: As `Queries.check_library`, or retrieval is for other tasks.
          ConfigError: Shards would add to scores in a library without locks, or the
            vocabulary has too few sentinels for inputs with missing spans.
        """
        if self.retrieval is None:
            return []
        asker = former_retrieval.asker(self.retrieval, self.run)
        folders = self.retrieval.check_library(
            asker, self.data, base_path=self.base_path
        )
        former_retrieval.check_tasks(self.retrieval, self.tasks)
        if any(strategy.num_looked_at(len(folders)) for strategy in self.strategies):
            shards.check_file(
                shards.parse(self.shard),
                behaviour_scores.path(self._library_dir(self.retrieval)),
                do="Copy the library to a file system with locks, or score without"
                " shards",
            )
        if any(strategy.reads_inputs for strategy in self.strategies):
            opened = self.data.opened(self.run.place)
            span_corruption.check_sentinels(
                opened.features.inputs_length, opened.vocabulary
            )
        return [*folders.values()]

    def plan(
        self,
        data: task_data.OpenedData,
        parts: Sequence[score_cost.Part],
        *,
        device_flops: float,
    ) -> Plan:
        """Returns what scoring costs, and routing if a strategy routes.

        Args:
          data: Where the tokens of the tasks are.
          parts: What is scored.
          device_flops: Operations per second of all devices of a machine.
        """
        base_dir = self.run.path(self.base_path)
        shape, infos = bases.model_config(bases.read_manifest(base_dir)), self._infos()
        added = sum(strategy.added_share(shape, infos) for strategy in self.strategies)
        plan = score_cost.describe(
            base_dir,
            parts,
            num_shards=shards.parse(self.shard).count,
            device_flops=device_flops,
            more=dict.fromkeys(self.tasks, added),
        )
        if self.retrieval is None:
            return plan
        plan |= routing_cost.plan(
            self.strategies,
            self.retrieval,
            self.tasks,
            data,
            base_dir=base_dir,
            library_dir=self._library_dir(self.retrieval),
            device_flops=device_flops,
        )
        costs = {
            strategy.label: strategy.costs(shape, infos)
            for strategy in self.strategies
            if isinstance(strategy, LibraryStrategy)
        }
        return plan | {name: line for name, line in costs.items() if line}

    def num_members(self) -> int:
        """Returns how many experts are scored on each task for pools, at most."""
        number = len(self._infos())
        return max((s.num_members(number) for s in self.strategies), default=0)

    def questions(
        self, program: scorer.Scorer, keys: jobs.Keys
    ) -> list[queries.Question]:
        """Returns what the library answers each task, and what strategies look at.

        Raises:
          ElmError: As `Queries.ask` and `behaviour_scores.with_behaviour`.
        """
        if self.retrieval is None:
            return []
        asker = former_retrieval.asker(self.retrieval, self.run)
        return behaviour_scores.with_behaviour(
            self.retrieval.ask(asker, self.tasks, self.data, base_path=self.base_path),
            self.strategies,
            program,
            keys,
            library_dir=self._library_dir(self.retrieval),
            run_id=self.run.name,
        )

    def _infos(self) -> list[manifest.Manifest]:
        """Returns the manifests of the library's experts."""
        if self.retrieval is None:
            return []
        listed = catalogue.Catalogue(self._library_dir(self.retrieval))
        names = listed.experts()
        return [manifest.read_manifest(listed.expert_dir(name)) for name in names]

    def _library_dir(self, retrieval: queries.Queries) -> pathlib.Path:
        asker = former_retrieval.asker(retrieval, self.run)
        return asker.path(retrieval.library_dir)
