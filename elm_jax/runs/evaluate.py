"""elm_eval: base, experts, retrieved and merged experts on tasks, as result rows."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, NamedTuple

from elm_jax import errors, fields, paths
from elm_jax.data import tasks as task_registry
from elm_jax.data import token_store
from elm_jax.evaluation import results
from elm_jax.library import sampling
from elm_jax.model import decoding_spec
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import processes, rules
from elm_jax.runs import (
    bases,
    candidates,
    data_doubts,
    data_folder,
    library,
    score_tables,
    scored_rows,
    scorer,
    shards,
    task_data,
    train_plan,
)
from elm_jax.runs.progress import Progress
from elm_jax.runs.run import Plan, Run

Strategy = Literal["base", "retrieved", "merged_top3"]
CandidateTasks = tuple[candidates.Candidate, list[str]]


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
      axis_rules: Name of the table that places parameters on the mesh.
      num_fsdp: Devices that split the batch and keep a part of each parameter, under
        `fsdp` and `fsdp_model`; -1 for all that `num_model` leaves.
      num_model: Devices that share the parameters and the work on them, under
        `data_model` and `fsdp_model`. Devices that are left split the batch.
      length_normalized: Whether a choice's score is divided by its tokens.
      decoding: How tokens are chosen where a task has no choices: greedily, or by
        `decoding_spec.BeamSearch` or `decoding_spec.Sampling`.
      protocol: Short name for the rows, such as `elm`.
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
    axis_rules: str = "data"
    num_fsdp: fields.CountOrAll = 1
    num_model: fields.Count = 1
    length_normalized: bool = False
    decoding: decoding_spec.DecodingSpec = decoding_spec.GREEDY
    protocol: str = "elm"
    random_seed: fields.Seed = 42
    results_path: paths.Path = "{MODEL_DIR}/results.jsonl"

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other."""
        rules.check_axes(
            self.axis_rules, num_fsdp=self.num_fsdp, num_model=self.num_model
        )
        shards.parse(self.shard)
        asks = set(self.strategies) - {"base"}
        if bool(asks) != (self.retrieval is not None):
            raise errors.ConfigError(
                errors.explain(
                    found=f"strategies {self.strategies} "
                    f"{'with' if self.retrieval else 'without'} a retrieval",
                    expected="a retrieval for `retrieved` and `merged_top3`, and for"
                    " nothing else",
                    do="Set retrieval = @library.Retrieve(), or leave it out",
                )
            )

    def plan(self) -> Plan:
        """Returns what would be scored.

        Raises:
          ConfigError: The devices do not divide a batch, or there is no data folder.
        """
        self._check_folder()
        devices = train_plan.choose_devices(
            self.num_model, self.axis_rules, self.num_fsdp
        )
        meshes.check_batch_size(self.batch_size, devices.mesh)
        found = library.find_experts(self, self.experts) if self.experts else []
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
            "devices": devices,
            "files": self.path(self.results_path),
        }

    def run(self) -> None:
        """Scores what the result file lacks, and prints the scores of this run."""
        self._check_folder()
        base = bases.load_base(self.path(self.initial_checkpoint_path))
        store = results.ResultStore(self.path(self.results_path))
        data = self.data.opened(self.place)
        groups: dict[tuple[pathlib.Path, ...], list[Job]] = {}

        @functools.cache
        def open_split(task: str, split: str) -> ScoredSplit:
            with processes.main_first(f"token cache of {task} {split}"):
                dataset = data.open(task, split)
            rows = self._rows(len(dataset), split)
            facts = scored_rows.facts(dataset, rows, data.vocabulary)
            return ScoredSplit(dataset, rows, facts)

        jobs = list(self._jobs(base, open_split))
        data_doubts.check(job.of.dataset for job in jobs)
        processes.check_same(
            repr([job.cell for job in jobs]), what="list of what to score"
        )
        done = {row.key("") for row in store.rows()}
        is_done = processes.agree([job.cell.key("") in done for job in jobs])
        for job, skip in zip(jobs, is_done, strict=True):
            if not skip:
                groups.setdefault(job.candidate.folders, []).append(job)
        total = sum(map(len, groups.values()))
        print(f"to score: {total}; scored already: {len(jobs) - total}")  # noqa: T201
        if groups:
            self._score_all(base, data, store, list(groups.values()))
        if not processes.is_main():
            return
        keys = {job.cell.key("") for job in jobs}
        score_tables.show([row for row in store.rows() if row.key("") in keys])
        print(store.path)  # noqa: T201

    def _check_folder(self) -> None:
        names = task_registry.registry.expand(self.tasks) if self.tasks else []
        data_folder.check(self.data.places(self.place), names, self.splits)

    def _score_all(
        self,
        base: bases.Base,
        data: task_data.OpenedData,
        store: results.ResultStore,
        groups: list[list["Job"]],
    ) -> None:
        program = scorer.Scorer(
            base,
            data,
            batch_size=self.batch_size,
            axis_rules=self.axis_rules,
            length_normalized=self.length_normalized,
            decoding=self.decoding,
            num_fsdp=self.num_fsdp,
            num_model=self.num_model,
        )
        total = sum(map(len, groups))
        progress, count = Progress("score", total=total, unit="cells"), 0
        for group in groups:  # one set of parameters each
            candidate = group[0].candidate
            params = program.place(candidate.params(base))
            adapter = candidate.adapter()
            for job in group:
                where = f"{job.cell.expert} on {job.cell.task} {job.cell.split}"
                with errors.during(f"scoring {where}"):
                    scored = program.score(params, adapter, job.of.dataset, job.of.rows)
                if processes.is_main():
                    facts = dataclasses.replace(
                        job.of.facts,
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
        base: bases.Base,
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
            info = candidate.manifest()
            own = list(info.tasks) if info else []
            pairs.append((candidate, own if self.own_tasks else names))
        pairs += self._retrieved()
        for candidate, tasks in self._own(pairs):
            for task in tasks:
                for split in self.splits:
                    opened = open_split(task, split)
                    yield Job(candidate, self._cell(candidate, base, opened), opened)

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
                    found.append((candidates.Candidate(label, folders), [task]))
        return found

    def _cell(
        self,
        candidate: candidates.Candidate,
        base: bases.Base,
        opened: "ScoredSplit",
    ) -> results.Cell:
        dataset, rows, facts = opened
        task, split = dataset.name, dataset.split
        known = task_registry.registry.task(task)
        info = candidate.manifest()
        shaped_by = [dataset.fingerprint, rows, self.length_normalized]
        # Greedy decoding adds nothing, so that earlier results keep their keys.
        if not dataset.has_choices and self.decoding != decoding_spec.GREEDY:
            shaped_by.append(repr(self.decoding))
        # Earlier versions gave what cannot be told apart to the first of its choices.
        if facts.undistinguished:
            shaped_by.append("ties are shared")
        return results.Cell(
            expert=candidate.name,
            base_fingerprint=base.fingerprint,
            expert_fingerprint=candidate.fingerprint(),
            task=task,
            dataset=getattr(known, "dataset", task),
            prompt=getattr(known, "prompt", task),
            split=split,
            protocol=self.protocol,
            seed=self.random_seed,
            checkpoint_step=info.steps if info else 0,
            scoring=hashlib.sha256(json.dumps(shaped_by).encode()).hexdigest()[:16],
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
