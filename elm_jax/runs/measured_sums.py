"""What is measured with one expert: sums over rows, streamed in batches."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import trees
from elm_jax.data import batches as data_batches
from elm_jax.data import token_store
from elm_jax.evaluation import answers, batching
from elm_jax.model import config, precision, reads, scoring
from elm_jax.peft import adapters
from elm_jax.runs import bases, loaded
from elm_jax.types import PAD_ID, Batch, Params

Arrays = dict[str, np.ndarray]
Examples = Sequence[token_store.Example]
_MASKED = -1e9  # The score of choices that a row lacks: exp of it is 0.
MATRIX_PARTS = ("kernel", "lora_a")


class Measured(NamedTuple):
    """An expert on its base, and the rows it is measured on.

    Attributes:
      expert: The expert.
      base: The expert's base.
      examples: The rows.
      batch_size: Rows at once.
    """

    expert: loaded.Expert
    base: loaded.Base
    examples: Examples
    batch_size: int

    @property
    def network(self) -> tuple[config.T5Config, adapters.AdapterSpec | None]:
        """The arguments of `bases.build_model`, with the expert's adapters."""
        return self.base.config, self.expert.adapter

    @property
    def params(self) -> Params:
        """The whole model's parameters, in the dtypes of computation."""
        whole = trees.replace(self.base.params, self.expert.params)
        # The base's may be on disk.
        whole = jax.tree.map(np.asarray, whole)
        return precision.in_compute_dtype(self.base.config, whole)

    def batches(self) -> Iterator[Batch]:
        """Yields all rows once; the last batch is filled with rows of padding."""
        order = sorted(self.examples, key=lambda example: len(example.inputs))
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            inputs = self._padded([example.inputs for example in part], 32)
            targets = self._padded([example.targets for example in part], 8)
            yield {
                "encoder_input_tokens": inputs,
                "decoder_input_tokens": data_batches.shift_right(targets),
                "decoder_target_tokens": targets,
            }

    def _padded(self, rows: Sequence[np.ndarray], least: int) -> np.ndarray:
        length = batching.round_up(max(map(len, rows)), least=least)
        padded = np.full((self.batch_size, length), PAD_ID, np.int32)
        padded[: len(rows)] = batching.pad(rows, length)
        return padded


def grams(measured: Measured) -> Arrays:
    """Returns what RegMean needs: the mean of x x' over what each matrix reads.

    Of matrices [inputs, outputs] and of the first ones of LoRAs [inputs, inputs], of
    (IA)3's factors the mean squares of what they multiply, all float32, summed in
    float32; below a stack of layers with them in front. Tokens count, padding does not.
    Of embeddings, norms and biases there is nothing.

    Args:
      measured: The expert and the rows, one or more.
    """
    leaves = trees.flatten(measured.expert.params)
    sums = _sums_fn(*measured.network, frozenset(filter(reads.can_be_seen, leaves)))
    params = measured.params
    totals: Any = None
    for batch in measured.batches():
        batch_sums = sums(params, batch)
        totals = (
            batch_sums if totals is None else jax.tree.map(jnp.add, totals, batch_sums)
        )
    return {
        name: np.asarray(total / jnp.maximum(count, 1))
        for name, (total, count) in (totals or {}).items()
    }


@functools.lru_cache(maxsize=8)  # for experts of one kind, compiled once
def _sums_fn(
    shape: config.T5Config,
    adapter: adapters.AdapterSpec | None,
    names: frozenset[str],
) -> Callable[..., Any]:
    read = reads.make_read_fn(bases.build_model(shape, adapter), names)

    @jax.jit
    def sums(params: Params, batch: Batch) -> dict[str, Any]:
        return {n: _sum_up(n, x, batch) for n, x in read(params, batch).items()}

    return sums


def _sum_up(name: str, x: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    mask = reads.is_token(name, batch)
    spread = mask.reshape((1,) * (x.ndim - 3) + (*mask.shape, 1))
    # Padding is replaced, not multiplied by 0: it may be infinite.
    x = jnp.where(spread, x.astype(jnp.float32), 0.0)
    x = x.reshape(*x.shape[:-3], -1, x.shape[-1])
    count = jnp.sum(mask.astype(jnp.float32))
    if name.rpartition("/")[2] not in MATRIX_PARTS:
        return jnp.sum(jnp.square(x), axis=-2), count
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("...nd,...ne->...de", x, x, precision=exact), count


def hidden(
    measured: Measured, names: Sequence[str], num_positions: int, seed: int
) -> Arrays:
    """Returns what narrowing needs: what matrices read, [..., positions, width].

    Args:
      measured: The expert and the rows.
      names: The matrices' names.
      num_positions: Tokens at most, drawn by the seed among those of all rows, for
        inputs and for targets; the same for experts that are given the same rows.
      seed: The seed by which tokens are drawn.
    """
    read = _read_fn(*measured.network, frozenset(names))
    params = measured.params
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for batch in measured.batches():
        for name, x in read(params, batch).items():
            mask = np.asarray(reads.is_token(name, batch))
            parts[name].append(np.asarray(x, np.float32)[..., mask, :])
    drawn = {}
    for name, several in parts.items():
        all_positions = np.concatenate(several, axis=-2)
        draw = np.random.default_rng(seed).permutation(all_positions.shape[-2])
        drawn[name] = all_positions[..., np.sort(draw[:num_positions]), :]
    return drawn


@functools.lru_cache(maxsize=8)
def _read_fn(
    shape: config.T5Config,
    adapter: adapters.AdapterSpec | None,
    names: frozenset[str],
) -> Callable[..., Any]:
    return jax.jit(reads.make_read_fn(bases.build_model(shape, adapter), names))


def fisher(measured: Measured) -> Arrays:
    """Returns the diagonal of the Fisher information, float32, as the parameters.

    The mean over rows of the expected squared gradient of a row's log-likelihood: for
    rows with answer choices in expectation over these, those of one text taken once, by
    the probabilities that the expert gives them among each other; for others of the
    target that the row has, which is the empirical Fisher information.

    Args:
      measured: The expert and the rows, one or more.
    """
    rows_fn = _squares_fn(*measured.network)
    expert, params = trees.as_float32(measured.expert.params), measured.params
    total: Any = None
    for _, batch in choice_batches(measured.examples, measured.batch_size):
        squares = rows_fn(expert, params, *batch)
        total = squares if total is None else jax.tree.map(jnp.add, total, squares)
    count = len(measured.examples)
    return {name: np.asarray(a) / count for name, a in trees.flatten(total).items()}


@functools.lru_cache(maxsize=8)
def _squares_fn(
    shape: config.T5Config, adapter: adapters.AdapterSpec | None
) -> Callable[..., Any]:
    """Returns `(expert, whole, inputs, choices, mask, is_row) -> sums of squares`."""
    score = scoring.make_score_fn(bases.build_model(shape, adapter))

    def log_probs(expert: Params, whole: Params, row: tuple[Any, ...]) -> Any:
        inputs, choices, mask = (part[None] for part in row)
        scores = score(trees.replace(whole, expert), inputs, choices, mask)[0]
        scores = jnp.where(mask[0], scores, _MASKED)
        # With a single one there is nothing to choose: it is a target.
        return jax.nn.log_softmax(scores) if len(scores) > 1 else scores

    @jax.jit
    def squares(expert: Params, whole: Params, *batch: Any) -> Any:
        def add(total: Any, row: Any) -> tuple[Any, None]:
            *parts, is_row = row
            log_p, pull = jax.vjp(
                lambda expert: log_probs(expert, whole, tuple(parts)), expert
            )
            (slopes,) = jax.vmap(pull)(jnp.eye(len(log_p)))  # [choices, ...]
            p = jnp.exp(log_p) if len(log_p) > 1 else jnp.ones(1)
            p = p * is_row

            def summed(leaf: jax.Array) -> jax.Array:
                return jnp.einsum("c,c...->...", p, jnp.square(leaf))

            return jax.tree.map(jnp.add, total, jax.tree.map(summed, slopes)), None

        # One row at a time: its gradients are as large as the expert, for each choice.
        zeros = jax.tree.map(jnp.zeros_like, expert)
        return jax.lax.scan(add, zeros, batch)[0]

    return squares


def choice_batches(
    examples: Examples, batch_size: int
) -> Iterator[tuple[Examples, tuple[np.ndarray, ...]]]:
    """Yields rows of like shape, and arrays of them.

    These are int32 inputs [B, S] and choices [B, C, T], bool [B, C], which of these
    there are, and float32 [B], 1 for rows and 0 for what fills the batch. Of rows
    without choices the target is the only one. Of choices of one text, which are one
    answer, the first alone is there.
    """
    groups: dict[tuple[int, ...], list[token_store.Example]] = {}
    for example in examples:
        choices = example.choices or (example.targets,)
        longest = batching.round_up(max(map(len, choices)), least=8)
        inputs = batching.round_up(len(example.inputs), least=32)
        number = 1 << (len(choices) - 1).bit_length()
        groups.setdefault((inputs, longest, number), []).append(example)
    for shape, rows in sorted(groups.items()):
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            yield part, _packed(part, batch_size, shape)


def _packed(
    rows: Examples, size: int, shape: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """Returns int32 inputs and choices, bool masks of choices, float32 of rows.

    Args:
      rows: At most `size`.
      size: Rows of the batch.
      shape: Lengths of inputs and of choices, and how many choices.
    """
    inputs_length, choice_length, number = shape
    inputs = np.zeros((size, inputs_length), np.int32)
    choices = np.zeros((size, number, choice_length), np.int32)
    mask = np.zeros((size, number), bool)
    mask[:, 0] = True
    for place, example in enumerate(rows):
        inputs[place, : len(example.inputs)] = example.inputs
        for position, choice in enumerate(example.choices or (example.targets,)):
            choices[place, position, : len(choice)] = choice
        if example.choices:
            mask[place, answers.firsts(example.choices_text)] = True
    is_row = (np.arange(size) < len(rows)).astype(np.float32)
    return inputs, choices, mask, is_row
