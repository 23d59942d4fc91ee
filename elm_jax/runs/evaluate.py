"""elm_eval: base, experts, retrieved and merged experts on tasks, as result rows."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple

from elm_jax import errors, fields, paths
from elm_jax.checkpoints import manifest
from elm_jax.data import tasks as task_registry
from elm_jax.data import token_store
from elm_jax.evaluation import naming, result_store, results
from elm_jax.library import sampling
from elm_jax.model import decoding_spec
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import processes
from elm_jax.runs import (
    candidates,
    cell_keys,
    data_doubts,
    data_folder,
    expert_checks,
    least_difference,
    library,
    loaded,
    moved_fields,
    score_tables,
    scored_rows,
    scorer,
    shards,
    task_data,
    vocabularies,
)
from elm_jax.runs.placement import MOVED, Placement, choose_devices
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Plan, Run

Strategy = Literal["base", "retrieved", "merged_top3"]
CandidateTasks = tuple[candidates.Candidate, list[str]]


@moved_fields.takes_old_names(MOVED)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Run):
    """Scores candidates on tasks and appends result rows; what is there is skipped.

    Tasks with answer choices are ranked, others generated for and compared by their
    own metrics. Where queries come from the split that is scored, their rows are
    left out of every candidate's score.

    Attributes:
      tasks: Names or patterns of tasks and mixtures; with `own_tasks` only for what
        has no tasks of its own, such as the base.
      data: Vocabulary, lengths and folders of the tasks' tokens.
      initial_checkpoint_path: Folder of the base.
      experts: Folders of experts, or shell patterns, each scored under its name.
      strategies: `base`; `retrieved`, the expert that a library gives for a task;
        `merged_top3`, the uniform merge of the three with most votes.
      shard: `i/n` scores part i, from 0, of the candidates dealt out to n machines,
        into the one result file; "" scores all.
      own_tasks: Whether each expert is scored on the tasks it was trained on.
      retrieval: How a library is asked; needed by `retrieved` and `merged_top3`.
      splits: Splits of the tasks to score.
      max_examples: Rows per task and split, drawn by the seed; 0 for all.
      batch_size: Examples per call, over all devices.
      placement: How parameters and batches lie over the devices.
      length_normalized: Whether a choice's score is divided by its tokens.
      decoding: How tokens are chosen where a task has no choices: greedily, or by
        `decoding_spec.BeamSearch` or `decoding_spec.Sampling`.
      protocol: What rows are to say of it, such as `elm`; refused where it is not
        so. By default they say what is true (`cell_keys.protocol`).
      random_seed: Of the choice of rows.
      results_path: JSON lines.
    """

    can_share_work: ClassVar[bool] = True

    data: task_data.TaskData
    initial_checkpoint_path: paths.Path
    tasks: str | tuple[str, ...] = ()
    experts: tuple[paths.Pattern, ...] = ()
    strategies: tuple[Strategy, ...] = ()
    shard: str = ""
    own_tasks: bool = False
    retrieval: library.Retrieve | None = None
    splits: tuple[str, ...] = ("test",)
    max_examples: fields.CountOrNone = 0
    batch_size: fields.Count = 64
    placement: Placement = Placement()
    length_normalized: bool = False
    decoding: decoding_spec.DecodingSpec = decoding_spec.GREEDY
    protocol: str = ""
    random_seed: fields.Seed = 42
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other."""
        shards.parse(self.shard)
        asks = set(self.strategies) - {"base"}
        if bool(asks) != (self.retrieval is not None):
            raise errors.ConfigError(
                found=f"strategies {self.strategies} "
                f"{'with' if self.retrieval else 'without'} a retrieval",
                expected="a retrieval for `retrieved` and `merged_top3`, and for"
                " nothing else",
                do="Set retrieval = @library.Retrieve(), or leave it out",
            )
        if self.retrieval is not None and self.retrieval.data != self.data:
            raise errors.ConfigError(
                found=f"a retrieval with {self.retrieval.data}",
                expected=f"the data of the evaluation: {self.data}",
                do="Give both the same @task_data.TaskData()",
            )

    def plan(self) -> Plan:
        """Returns what would be scored; looks at base, experts and library.

        Raises:
          ElmError: As `run` before the first score, as far as no data is needed.
        """
        self._check_folder()
        devices = choose_devices(self.placement)
        meshes.check_batch_size(self.batch_size, devices.mesh)
        data = self.data.opened(self.place)
        found = self._check_experts(data)
        names = task_registry.registry.expand(self.tasks) if self.tasks else []
        return {
            "strategies": ", ".join(self.strategies),
            "experts": f"{len(found)}: {', '.join(folder.name for folder in found)}",
            "tasks": "each expert's own"
            if self.own_tasks
            else f"{len(names)}: {', '.join(names)}",
            "shard": self.shard or "all",
            "splits": ", ".join(self.splits),
            "decoding": self.decoding,
            "smallest difference": self._least_difference(data, names),
            "devices": devices,
            "files": self.path(self.results_path),
        }

    def _least_difference(self, data: task_data.OpenedData, names: list[str]) -> str:
        """Returns the smallest difference that the rows can show, if they are known."""
        num_rows: dict[str, int] = {}
        for name in names:
            task = task_registry.registry.task(name)
            dataset = getattr(task, "dataset", name)
            if dataset not in num_rows:  # prompts of a dataset have the same rows
                known = data.num_rows_if_cached(name, self.splits[-1])
                num_rows[dataset] = (
                    self.max_examples  # at most
                    if known is None
                    else len(self._rows(known, self.splits[-1]))
                )
        if not num_rows or not all(num_rows.values()):
            return "unknown before tokens are cached"
        return f"{self.splits[-1]}: {least_difference.describe(num_rows)}"

    def run(self) -> None:
        """Scores what the result file lacks, and prints the scores of this run.

        Raises:
          ElmError: Something a user can repair, before the first score.
        """
        self._check_folder()
        data = self.data.opened(self.place)
        self._check_experts(data)
        base = loaded.Base.load(self.path(self.initial_checkpoint_path))
        vocabularies.warn_if_unknown(base.manifest)
        store = result_store.ResultStore(self.path(self.results_path))
        groups: dict[tuple[pathlib.Path, ...], list[Job]] = {}

        @functools.cache
        def open_split(task: str, split: str) -> ScoredSplit:
            with processes.main_first(f"token cache of {task} {split}"):
                dataset = data.open(task, split)
            rows = self._rows(len(dataset), split)
            facts = scored_rows.facts(dataset, rows, data.vocabulary)
            return ScoredSplit(dataset, rows, facts)

        jobs = list(self._jobs(base, data, open_split))
        data_doubts.check(job.of.dataset for job in jobs)
        processes.check_same(
            repr([job.cell for job in jobs]), what="list of what to score"
        )
        done = {row.key("") for row in store.rows()}
        is_done = processes.agree([job.cell.key("") in done for job in jobs])
        for job, skip in zip(jobs, is_done, strict=True):
            # In the order of all, so that rows have it also after a kill.
            group = groups.setdefault(job.candidate.folders, [])
            if not skip:
                group.append(job)
        todo = [group for group in groups.values() if group]
        total = sum(map(len, todo))
        print(f"to score: {total}; scored already: {len(jobs) - total}")  # noqa: T201
        if todo:
            self._score_all(base, data, store, todo)
        if not processes.is_main():
            return
        keys = {job.cell.key("") for job in jobs}
        own = [row for row in store.rows() if row.key("") in keys]
        score_tables.show(naming.told_apart(own))
        print(store.path)  # noqa: T201

    def _check_folder(self) -> None:
        names = task_registry.registry.expand(self.tasks) if self.tasks else []
        data_folder.check(self.data.places(self.place), names, self.splits)

    def _check_experts(self, data: task_data.OpenedData) -> list[pathlib.Path]:
        """Returns the folders of `experts`, after a look at all that can be scored.

        Raises:
          ElmError: An expert, also of the library, does not fit base, model or
            vocabulary; the library's are not those that it lists; or retrieval is for
            other tasks.
        """
        named = library.find_experts(self, self.experts) if self.experts else []
        candidates.of_experts(named)
        listed: list[pathlib.Path] = []
        if self.retrieval is not None:
            listed = self.retrieval.check_library()
            if "merged_top3" in self.strategies:
                expert_checks.check_alike([*map(manifest.read_manifest, listed)])
            asked = task_registry.registry.expand(self.retrieval.tasks)
            wanted = task_registry.registry.expand(self.tasks) if self.tasks else []
            if sorted(asked) != sorted(wanted):
                raise errors.ConfigError(
                    found=f"retrieval for {len(asked)} tasks: {', '.join(asked)}"[:300],
                    expected=f"the {len(wanted)} tasks of the evaluation",
                    do="Give both the same tasks, as MIXTURE_OR_TASK_NAME",
                )
        expert_checks.check(
            dict.fromkeys([*named, *listed]),
            base_dir=self.path(self.initial_checkpoint_path),
            vocabulary=data.vocabulary,
        )
        every = map(manifest.read_manifest, dict.fromkeys([*named, *listed]))
        note = expert_checks.describe_lengths(every, self.data.feature_lengths)
        if note:
            print(f"note: {note}")  # noqa: T201
        return named

    def _score_all(
        self,
        base: loaded.Base,
        data: task_data.OpenedData,
        store: result_store.ResultStore,
        groups: list[list["Job"]],
    ) -> None:
        program = scorer.Scorer(
            base,
            data,
            batch_size=self.batch_size,
            where=self.placement,
            length_normalized=self.length_normalized,
            decoding=self.decoding,
        )
        total = sum(map(len, groups))
        progress, count = Progress("score", total=total, unit="cells"), 0
        for group in groups:  # one set of parameters each
            candidate = group[0].candidate
            whole, adapter = candidate.load(base)
            params = program.place(whole)
            for job in group:
                where = f"{job.cell.expert} on {job.cell.task} {job.cell.split}"
                with errors.during(f"scoring {where}"):
                    scored = program.score(params, adapter, job.of.dataset, job.of.rows)
                if processes.is_main():
                    facts = dataclasses.replace(
                        job.of.facts,
                        **job.candidate.facts(store.path.parent),
                        vocabulary=data.vocabulary.fingerprint,
                        ties=scored.ties,
                        answers_cut=scored.answers_cut,
                    )
                    store.record(
                        job.cell,
                        run_id=self.name,
                        facts=facts,
                        values=scored.values,
                        num_examples=scored.num_examples,
                        per_example=scored.per_example,
                    )
                count += 1
                progress(count)

    def _rows(self, num_rows: int, split: str) -> list[int]:
        """Returns the rows to score: none of them a query, all of them if allowed."""
        asks_here = self.retrieval is not None and self.retrieval.split == split
        num_queries = self.retrieval.num_queries if self.retrieval and asks_here else 0
        seed = self.retrieval.random_seed if self.retrieval else self.random_seed
        parts = sampling.divide_rows(num_rows, seed=seed, num_queries=num_queries)
        chosen = parts.evaluation[: self.max_examples or None]
        return sorted(chosen.tolist())

    def _jobs(
        self,
        base: loaded.Base,
        data: task_data.OpenedData,
        open_split: Callable[[str, str], "ScoredSplit"],
    ) -> Iterator["Job"]:
        """Yields every candidate on every task and split that it is scored on."""
        registry = task_registry.registry
        names = registry.expand(self.tasks) if self.tasks else []
        pairs: list[CandidateTasks] = []
        if "base" in self.strategies:
            pairs.append((candidates.Candidate("base"), names))
        folders = library.find_experts(self, self.experts) if self.experts else []
        for candidate in candidates.of_experts(folders):
            info = candidate.manifest
            own = list(info.tasks) if info else []
            pairs.append((candidate, own if self.own_tasks else names))
        pairs += self._retrieved()
        for candidate, tasks in self._own(pairs):
            for task in tasks:
                for split in self.splits:
                    opened = open_split(task, split)
                    cell = self._cell(candidate, base, data, opened)
                    yield Job(candidate, cell, opened)

    def _own(self, pairs: list[CandidateTasks]) -> list[CandidateTasks]:
        """Returns this shard's candidates; the same parameters stay together."""
        names = [" ".join(map(str, candidate.folders)) for candidate, _ in pairs]
        own = set(shards.parse(self.shard).choose(set(names)))
        return [pair for pair, name in zip(pairs, names, strict=True) if name in own]

    def _retrieved(self) -> list[CandidateTasks]:
        """Returns what the library gives for each of its tasks, by strategy."""
        if self.retrieval is None:
            return []
        listed = self.retrieval.open_catalogue()
        found = []
        for task, result in self.retrieval.retrieve():
            for label, number in (("retrieved", 1), ("merged_top3", 3)):
                if label in self.strategies:
                    folders = tuple(map(listed.expert_dir, result.top(number)))
                    chosen = candidates.Candidate(label, folders, "strategy")
                    found.append((chosen, [task]))
        return found

    def _cell(
        self,
        candidate: candidates.Candidate,
        base: loaded.Base,
        data: task_data.OpenedData,
        opened: "ScoredSplit",
    ) -> results.Cell:
        dataset, rows, facts = opened
        task = task_registry.registry.task(dataset.name)
        info = candidate.manifest
        how: dict[str, Any] = {
            "length_normalized": self.length_normalized,
            "decoding": self.decoding,
        }
        return results.Cell(
            expert=candidate.name,
            base_fingerprint=base.fingerprint,
            expert_fingerprint=candidate.fingerprint,
            task=dataset.name,
            dataset=getattr(task, "dataset", dataset.name),
            prompt=getattr(task, "prompt", dataset.name),
            split=dataset.split,
            protocol=cell_keys.protocol(
                dataset, rows_of=self.data.protocol, claimed=self.protocol, **how
            ),
            seed=self.random_seed,
            checkpoint_step=info.steps if info else 0,
            scoring=cell_keys.scoring(
                dataset, rows, facts, base=base, data=data, **how
            ),
        )


class ScoredSplit(NamedTuple):
    """A task's split, the places of the rows that are scored, and facts about them."""

    dataset: token_store.TokenizedDataset
    rows: list[int]
    facts: results.Facts


class Job(NamedTuple):
    """One candidate on one task and split."""

    candidate: candidates.Candidate
    cell: results.Cell
    of: ScoredSplit
