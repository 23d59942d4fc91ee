"""elm_eval: base, experts, retrieved and merged experts on tasks, as result rows."""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from elm_jax import fields, paths
from elm_jax.checkpoints import manifest
from elm_jax.data import tasks as task_registry
from elm_jax.evaluation import naming, racing, result_store
from elm_jax.model import decoding_spec
from elm_jax.partitioning import processes
from elm_jax.runs import (
    asking,
    candidates,
    data_doubts,
    data_folder,
    expert_checks,
    former_retrieval,
    jobs,
    least_difference,
    library,
    loaded,
    moved_fields,
    offered,
    overlaps,
    pooled_scores,
    pools,
    queries,
    raced,
    score_cost,
    score_memory,
    score_tables,
    scored_rows,
    scorer,
    shards,
    strategies,
    task_data,
    told_rows,
    vocabularies,
)
from elm_jax.runs.placement import MOVED, Placement
from elm_jax.runs.run import Plan, Run
from elm_jax.runs.strategy import LibraryStrategy, Strategy


@moved_fields.takes_old_names(MOVED)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Run):
    """Scores candidates on tasks and appends result rows; what is there is skipped.

    Tasks with answer choices are ranked, others generated for and compared by their
    own metrics. Where queries come from the split that is scored, their rows are
    left out of every candidate's score.

    Attributes:
      tasks: Names or patterns of tasks and mixtures; not for `own_tasks` of experts.
      data: Vocabulary, lengths and folders of the tasks' tokens.
      initial_checkpoint_path: Folder of the base.
      experts: Folders of experts, or shell patterns, each scored under its name.
      strategies: Ways to come to parameters for each task, `@strategies.MergeTopK()`
        or names, among them the controls `merged_all` and `random_weights`.
      shard: `i/n` scores part i, from 0, of the candidates of n machines; "" all.
      own_tasks: Whether each expert is scored on the tasks it was trained on.
      retrieval: How a library is asked, for strategies that ask one:
        `@queries.Queries()`, or `@library.Retrieve()` as up to release 0.1.
      splits: Splits of the tasks to score.
      max_examples: Rows per task and split, drawn by the seed; 0 for all.
      batch_size: Examples per call, over all devices.
      placement: How parameters and batches lie over the devices.
      length_normalized: Whether a choice's score is divided by its tokens.
      decoding: Where tasks have no choices: greedy, or of `decoding_spec` another.
      protocol: What rows are to say of it, such as `elm`; refused where it is not
        so. By default they say what is true (`cell_keys.protocol`).
      overlap: Rows like an expert's training rows: `refuse` over 1 %, `mark`, `ignore`.
      random_seed: The seed by which rows are chosen.
      race: How experts race, `@racing.Racing()`: only the best get all rows; or None.
      device_flops: Operations per second, for the hours that a plan tells.
      results_path: JSON lines.
    """

    can_share_work: ClassVar[bool] = True

    data: task_data.TaskData
    initial_checkpoint_path: paths.Path
    tasks: str | tuple[str, ...] = ()
    experts: tuple[paths.Pattern, ...] = ()
    strategies: tuple[Strategy | str, ...] = ()
    shard: str = ""
    own_tasks: bool = False
    retrieval: queries.Queries | None = None
    splits: tuple[str, ...] = ("test",)
    max_examples: fields.CountOrNone = 0
    batch_size: fields.Count = 64
    placement: Placement = Placement()
    length_normalized: bool = False
    decoding: decoding_spec.DecodingSpec = decoding_spec.GREEDY
    protocol: str = ""
    overlap: overlaps.Action = "refuse"
    random_seed: fields.Seed = 42
    race: racing.Racing | None = None
    device_flops: fields.Positive = score_cost.USUAL_FLOPS
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other."""
        shards.parse(self.shard)
        if self.race and self.shard:
            fields.refuse(self, {"shard": "'' in a race, which needs all experts"})
        strategies.check_is_asked(self._strategies(), self.retrieval)
        former_retrieval.check_data(self.retrieval, self.data)
        pools.check(self._strategies(), self.race, self.shard, self.length_normalized)

    def _strategies(self) -> tuple[Strategy, ...]:
        return strategies.of(self.strategies)

    def plan(self) -> Plan:
        """Returns what would be scored; looks at base, experts and library.

        Raises:
          ElmError: As `run` before the first score, as far as no data is needed.
        """
        self._check_folder()
        data = self.data.opened(self.place)
        experts = self._check_experts(data)
        names = self._names()
        counts = self._num_candidates(experts)
        parts = score_cost.parts(
            counts, self.splits, data, most=self.max_examples, choose=self._rows
        )
        num_rows = {p.task: p.num_rows for p in parts if p.split == self.splits[-1]}
        return {
            "strategies": ", ".join(map(str, self.strategies)),
            "experts": f"{len(experts)}: {', '.join(e.name for e in experts)}",
            "tasks": "each expert's own"
            if self.own_tasks
            else f"{len(names)}: {', '.join(names)}",
            "shard": self.shard or "all",
            "splits": ", ".join(self.splits),
            "smallest difference": least_difference.of_tasks(
                names, self.splits[-1], num_rows.__getitem__
            ),
            **self._asking().plan(data, parts, device_flops=self.device_flops),
            **score_memory.describe(
                *(self.path(self.initial_checkpoint_path), self.placement),
                *(self.batch_size, self.data.features, self.decoding),
            ),
            "files": self.path(self.results_path),
        }

    def _num_candidates(self, experts: Sequence[pathlib.Path]) -> dict[str, int]:
        names = self._names()
        number = len(self.strategies) + self._asking().num_members()
        count = collections.Counter(dict.fromkeys(names, number))
        for folder in experts:
            trained_tasks = manifest.read_manifest(folder).tasks
            count.update(trained_tasks if self.own_tasks else names)
        return count

    def run(self) -> None:
        """Scores what the result file lacks, and prints the scores of this run.

        Raises:
          ElmError: Something a user can repair, before the first score.
        """
        self._check_folder()
        data = self.data.opened(self.place)
        self._check_experts(data)
        base = loaded.Base.open(self.path(self.initial_checkpoint_path))
        vocabularies.warn_if_unknown(base.manifest)
        store = result_store.ResultStore(self.path(self.results_path))

        @functools.cache
        def open_split(task: str, split: str) -> jobs.ScoredSplit:
            with processes.main_first(f"token cache of {task} {split}"):
                dataset = data.open(task, split)
            rows = self._rows(len(dataset), split)
            facts = scored_rows.facts(dataset, rows, data.vocabulary)
            return jobs.ScoredSplit(dataset, rows, facts)

        keys = jobs.Keys(
            base=base,
            data=data,
            rows_of=self.data.protocol,
            claimed=self.protocol,
            seed=self.random_seed,
            length_normalized=self.length_normalized,
            decoding=self.decoding,
        )
        program = scorer.Scorer(
            base,
            data,
            batch_size=self.batch_size,
            where=self.placement,
            length_normalized=self.length_normalized,
            decoding=self.decoding,
        )
        asked_jobs = [*self._jobs(keys, open_split, program)]
        members = pooled_scores.members(asked_jobs, keys)
        compared = (data.data_options.cache_dir, self.overlap, base.manifest)
        all_jobs = overlaps.with_overlaps([*members, *asked_jobs], store, *compared)
        data_doubts.check(job.split.dataset for job in all_jobs)
        processes.check_same(
            repr([job.cell for job in all_jobs]), name="list of what to score"
        )
        if self.race is not None:
            all_jobs = raced.staying(
                self.race, all_jobs, program, keys, store, run_id=self.name
            )
        pooled_scores.score(all_jobs, program, keys, store, run_id=self.name)
        if processes.is_main():
            told_rows.tell_again(all_jobs, keys, store, run_id=self.name)
            rows = told_rows.rows_of(all_jobs[len(members) :], store)
            score_tables.show(naming.told_apart(rows))
            print(store.path)  # noqa: T201

    def _check_folder(self) -> None:
        shards.check_file(shards.parse(self.shard), self.path(self.results_path))
        folders = self.data.data_options(self.place)
        data_folder.check(folders, self._names(), self.splits)

    def _check_experts(self, data: task_data.OpenedData) -> list[pathlib.Path]:
        """Returns the folders of `experts`, after a look at all that can be scored.

        Raises:
          ElmError: An expert, also of the library, does not fit; the library's are not
            those that it lists; or retrieval is for other tasks.
        """
        folders, used_strategies = self._experts(), self._strategies()
        candidates.of_experts(folders, labels=self._labels())
        library_folders = self._asking().check()
        if self._asking().num_members():  # these get rows of their own
            candidates.of_experts(library_folders, labels=self._labels())
        offered.check_members(used_strategies, library_folders)
        pairs = offered.without_library(used_strategies, self._names(), self.path)
        library_folders += [
            folder for candidate, _ in pairs for folder in candidate.folders
        ]
        all_folders = [*dict.fromkeys([*folders, *library_folders])]
        base_dir = self.path(self.initial_checkpoint_path)
        expert_checks.check(all_folders, base_dir=base_dir, vocabulary=data.vocabulary)
        infos = map(manifest.read_manifest, all_folders)
        if note := expert_checks.describe_lengths(infos, self.data.feature_lengths):
            print(f"note: {note}")  # noqa: T201
        return folders

    def _asking(self) -> asking.Asking:
        return asking.Asking(
            *(self.retrieval, self._strategies(), self._names(), self.data, self),
            *(self.initial_checkpoint_path, self.shard),
        )

    def _names(self) -> list[str]:
        return task_registry.registry.expand(self.tasks) if self.tasks else []

    def _experts(self) -> list[pathlib.Path]:
        return library.find_experts(self, self.experts) if self.experts else []

    def _labels(self) -> set[str]:
        return {s.label for s in self._strategies() if isinstance(s, LibraryStrategy)}

    def _rows(self, num_rows: int, split: str) -> list[int]:
        """Returns the rows to score: none of them a query, all of them if allowed."""
        return scored_rows.choose(
            num_rows,
            split=split,
            retrieval=self.retrieval,
            seed=self.random_seed,
            most=self.max_examples,
        )

    def _jobs(
        self,
        keys: jobs.Keys,
        open_split: Callable[[str, str], jobs.ScoredSplit],
        program: scorer.Scorer,
    ) -> Iterator[jobs.ScoringJob]:
        """Yields every candidate on every task and split that it is scored on."""
        names, used_strategies = self._names(), self._strategies()
        pairs = [*offered.without_library(used_strategies, names, self.path)]
        for candidate in candidates.of_experts(self._experts(), labels=self._labels()):
            info = candidate.manifest
            trained_tasks = list(info.tasks) if info else []
            pairs.append((candidate, trained_tasks if self.own_tasks else names))
        questions = self._asking().questions(program, keys)
        reads_labels = any(strategy.reads_labels for strategy in used_strategies)
        for question in questions if reads_labels else ():
            if (split := question.dataset.split) in self.splits:
                rows = open_split(question.task, split).rows
                scored_rows.check_unseen(question, rows)
        pairs += offered.from_library(used_strategies, questions, self.path)
        for candidate, tasks in candidates.of_shard(pairs, shards.parse(self.shard)):
            for task in tasks:
                for split in self.splits:
                    opened = open_split(task, split)
                    cell = keys.cell(candidate, opened)
                    yield jobs.ScoringJob(candidate, cell, opened)
