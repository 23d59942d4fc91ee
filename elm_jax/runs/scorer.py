"""Scores parameters on a task's examples, by ranking choices or by generation."""

import functools
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import numpy as np

from elm_jax import trees
from elm_jax.data import tasks as task_registry
from elm_jax.data import token_store
from elm_jax.evaluation import generation, metrics, rank_classification
from elm_jax.model import decoding, decoding_spec, int8_kernels, scoring, t5
from elm_jax.partitioning import mesh as meshes
from elm_jax.partitioning import processes
from elm_jax.peft import adapters
from elm_jax.routing import input_routers
from elm_jax.runs import (
    bases,
    loaded,
    placement,
    placing,
    routing_traces,
    task_data,
)
from elm_jax.types import Params

# In per-example files: the UTF-8 bytes of the texts that were written, end to end, and
# int64 [n + 1], where each begins and ends.
TEXTS, TEXT_OFFSETS = "texts.values", "texts.offsets"


class Scores(NamedTuple):
    """The scores that a result store keeps.

    Attributes:
      values: See `result_store.ResultStore.record`, as for the next two.
      num_examples: How many were scored.
      per_example: Arrays by name.
      ties: See `results.Facts`, as for the next one.
      answers_cut: None for ranked tasks, as `ties` is for others.
    """

    values: Mapping[str, float]
    num_examples: int
    per_example: Mapping[str, np.ndarray]
    ties: float | None = None
    answers_cut: float | None = None


class Scorer:
    """Scores candidates of one base on tasks, with programs that are compiled once.

    Args:
      base: Gives the model's shape.
      data: Whose vocabulary turns generated tokens into text.
      batch_size: Examples per call, all devices together.
      where: How parameters and batches lie over the devices.
      length_normalized: Whether a choice's score is divided by its tokens.
      decoding: How tokens are chosen where a task has no choices.

    Raises:
      ConfigError: The devices do not divide a batch.
      MissingExtraError: The base is to be held as int8, and qwix is not installed.
    """

    def __init__(
        self,
        base: loaded.Base,
        data: task_data.OpenedData,
        *,
        batch_size: int,
        where: placement.Placement,
        length_normalized: bool = False,
        decoding: decoding_spec.DecodingSpec = decoding_spec.GREEDY,
    ) -> None:
        int8_kernels.check_installed(base.config.base_dtype)
        self._base, self._data = base, data
        self._base_leaves = trees.flatten(base.params)
        self._placed_base: dict[str, jax.Array] = {}
        self._batch_size, self._axis_rules = batch_size, where.axis_rules
        self._length_normalized, self._decoding = length_normalized, decoding
        self._mesh = meshes.make_mesh(
            num_fsdp=where.num_fsdp, num_model=where.num_model
        )
        meshes.check_batch_size(batch_size, self._mesh)

    def place(self, params: Params) -> Params:
        """Returns the parameters on the devices, to be scored on several tasks.

        Those of the base are placed once for all experts in turn that leave them as
        they are. An expert that brings all parameters frees their memory.
        """
        leaves = trees.flatten(params)
        of_base = {n for n, leaf in leaves.items() if leaf is self._base_leaves.get(n)}
        still_placed = _of_matrices(self._placed_base, of_base)
        self._placed_base = still_placed
        missing = {n: leaf for n, leaf in leaves.items() if n not in still_placed}
        placed = trees.flatten(
            placing.frozen(
                trees.unflatten(missing),
                self._base.config,
                self._mesh,
                self._axis_rules,
            )
        )
        self._placed_base = still_placed | _of_matrices(placed, of_base)
        return trees.unflatten(dict(sorted((still_placed | placed).items())))

    def score(
        self,
        params: Params,
        adapter: adapters.AnySpec | None,
        dataset: token_store.TokenizedDataset,
        rows: Sequence[int],
    ) -> Scores:
        """Returns the scores of placed parameters on some rows of a dataset."""
        examples = [dataset[row] for row in rows]
        if dataset.has_choices:
            return self._rank(params, adapter, examples)
        return self._generate(params, adapter, examples, task_metrics(dataset.name))

    def rank(
        self,
        params: Params,
        adapter: adapters.AnySpec | None,
        examples: Sequence[token_store.Example],
        *,
        length_normalized: bool | None = None,
    ) -> rank_classification.RankOutcome:
        """Returns the scores that placed parameters give to examples' choices.

        Args:
          params: What `place` returns.
          adapter: The adapters among these parameters.
          examples: With choices.
          length_normalized: Whether scores are divided by tokens; None as the scorer.
        """
        if length_normalized is None:
            length_normalized = self._length_normalized
        return rank_classification.rank_classify(
            self._bind(self._programs(adapter).score, params),
            examples,
            batch_size=self._batch_size,
            length_normalized=length_normalized,
        )

    def write(
        self,
        params: Params,
        adapter: adapters.AnySpec | None,
        examples: Sequence[token_store.Example],
    ) -> generation.Written:
        """Returns the texts that placed parameters write for examples."""
        return generation.generate(
            self._bind(self._programs(adapter).decode, params),
            examples,
            decode_text=self._data.vocabulary.decode,
            batch_size=self._batch_size,
        )

    def trace(
        self,
        params: Params,
        adapter: adapters.AnySpec,
        examples: Sequence[token_store.Example],
        experts: Sequence[str],
    ) -> np.ndarray:
        """Returns what a router weighs on examples with choices, as an array to keep.

        Args:
          params: What `place` returns.
          adapter: The mixture that has them.
          examples: One or more.
          experts: Names of the mixture's experts.
        """
        program = self._bind(self._trace_fn(adapter), params)
        batches = routing_traces.batches_of(
            examples,
            most_rows=self._batch_size,
            shares=meshes.batch_shares(self._mesh),
        )
        weighed = [processes.gather(program(*batch)) for batch in batches]
        weights = {
            name: np.concatenate([w[name] for w in weighed]) for name in weighed[0]
        }
        return routing_traces.array_of(
            weights, examples, self._data.vocabulary, experts
        )

    def _rank(
        self,
        params: Params,
        adapter: adapters.AnySpec | None,
        examples: Sequence[token_store.Example],
    ) -> Scores:
        return of_ranking(self.rank(params, adapter, examples))

    def _generate(
        self,
        params: Params,
        adapter: adapters.AnySpec | None,
        examples: Sequence[token_store.Example],
        names: Sequence[str],
    ) -> Scores:
        texts, are_cut = self.write(params, adapter, examples)
        targets = [example.targets_text for example in examples]
        values: dict[str, float] = {}
        per_example = {"example_ids": np.array([e.example_id for e in examples])}
        written = token_store.Ragged.of_texts(texts)
        per_example |= {TEXTS: written.values, TEXT_OFFSETS: written.offsets}
        for metric in map(metrics.get, names):
            values |= metric(targets, texts)
            per_example |= metric.per_example(targets, texts)
        per_example["answers_cut"] = are_cut
        share = 100.0 * float(are_cut.mean())
        return Scores(values, len(examples), per_example, answers_cut=share)

    def _bind(self, program: Callable[..., Any], params: Params) -> Callable[..., Any]:
        """Returns the program with its parameters; batches go to the devices.

        Every process has all rows and gets all results.
        """

        def call(*arrays: np.ndarray) -> Any:
            by_name = {str(n): array for n, array in enumerate(arrays)}
            placed = meshes.shard_batch(by_name, self._mesh, part=(0, 1))
            result = program(params, *placed.values())
            return processes.gather(result) if processes.are_several() else result

        return call

    def _model(self, adapter: adapters.AnySpec | None) -> Any:
        """Returns a `t5.T5`, which can be hashed, although its type does not say so."""
        model = bases.build_model(self._base.config, adapter)
        return model.clone(split_rows=meshes.SplitRows(self._mesh))

    def _trace_fn(self, adapter: adapters.AnySpec) -> routing_traces.TraceFn:
        return _trace_fn(self._model(adapter), adapter)

    def _programs(self, adapter: adapters.AnySpec | None) -> "_Programs":
        length = self._data.features.targets_length
        return _programs(self._model(adapter), adapter, self._decoding, length)


def _of_matrices(leaves: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    """Returns the leaves of parameters with these names, and the scales of these."""
    return {n: a for n, a in leaves.items() if int8_kernels.matrix_of(n) in names}


class _Programs(NamedTuple):
    score: Callable[..., jax.Array]
    decode: Callable[..., jax.Array]


# Scorers of equal models share what is compiled: a hundred experts of one kind, each
# with a scorer of its own, are scored by one program. Tables of two stages ask for some
# twenty in turn, task after task.
@functools.lru_cache(maxsize=64)
def _programs(
    model: t5.T5,
    adapter: adapters.AnySpec | None,
    spec: decoding_spec.DecodingSpec,
    length: int,
) -> _Programs:
    decode = decoding.make_decode_fn(model, spec, max_decode_len=length)
    programs = (scoring.make_score_fn(model), decode)
    return _Programs(
        *(input_routers.weighing_first(each, model, adapter) for each in programs)
    )


@functools.lru_cache(maxsize=64)
def _trace_fn(model: t5.T5, adapter: adapters.AnySpec) -> routing_traces.TraceFn:
    trace = routing_traces.make_trace_fn(model)
    return input_routers.weighing_first(trace, model, adapter)


def of_ranking(outcome: rank_classification.RankOutcome) -> Scores:
    """Returns what a result store keeps of ranked choices."""
    number = len(outcome.labels)
    ties = 100.0 * outcome.num_ties / number
    values = {"accuracy": outcome.accuracy, "chance": outcome.chance, "ties": ties}
    return Scores(values, number, outcome.per_example(), ties=ties)


def task_metrics(name: str) -> tuple[str, ...]:
    """Returns the names of a task's metrics; ROUGE where it names none."""
    task = task_registry.registry.task(name)
    return getattr(task, "metrics", ()) or ("rouge",)
