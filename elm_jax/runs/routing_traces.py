"""Where the tokens of a task went: what a router weighed, kept with the scores.

A trace is one array of a row's per-example values, JSON as UTF-8: of each place and
layer the mean weight of each expert, and of a few inputs, token by token, the mean
weight over the encoder's places. It is small: about 10 kB with 16 experts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import errors
from elm_jax.data import token_store
from elm_jax.data.vocabulary import SentencePiece
from elm_jax.evaluation import batching
from elm_jax.model import scoring, t5
from elm_jax.peft import mixture
from elm_jax.types import PAD_ID, Params

ARRAY = "routing"
_MOST_SHOWN, _MOST_TOKENS = 3, 64  # inputs, and tokens of each
_DIGITS = 3
# As a layer has them; of a stack without cross-attention there is none.
_SUB_LAYERS = ("attention", "self_attention", "cross_attention", "mlp")
_ALIASES = {"encoder_decoder_attention": "cross_attention"}
_PARTS = ("query", "key", "value", "out", "wi", "wi_0", "wi_1", "hidden", "wo")

TraceFn = Callable[[Params, Any, Any], dict[str, jax.Array]]


class Trace(NamedTuple):
    """What a router weighed on some rows of a task.

    Attributes:
      num_rows: The number of rows.
      experts: Names of the experts.
      places: Names such as `encoder/mlp_adapter 0`, with the layer: the encoder's
        first, in the order in which a layer has them, and of each place all layers.
      weights: Float [places, experts]: means over the tokens of all rows, padding
        left out, and over all answer choices in the decoder.
      pieces: Of a few inputs the texts of the first tokens.
      of_pieces: Of each of them float [tokens, experts], means over the encoder.
    """

    num_rows: int
    experts: tuple[str, ...]
    places: tuple[str, ...]
    weights: np.ndarray
    pieces: tuple[tuple[str, ...], ...]
    of_pieces: tuple[np.ndarray, ...]

    @property
    def heaviest(self) -> str:
        """The expert with the greatest mean weight over places; "" for a tie.

        Means that differ by less than weights are rounded are the same.
        """
        means = self.weights.mean(axis=0)
        greatest = np.flatnonzero(means > means.max() - 0.5 * 10**-_DIGITS)
        return self.experts[greatest[0]] if len(greatest) == 1 else ""


def make_trace_fn(model: t5.T5) -> TraceFn:
    """Returns the compiled `(params, inputs, choices) -> weights` of a mixture.

    Inputs are int32 [B, S], choices int32 [B, C, T]. The result has float32
    [B, layers, experts] by place, sums over a row's real tokens, and under `tokens`
    [B, S, experts], means over the encoder.
    """

    @jax.jit
    def trace(params: Params, inputs: Any, choices: Any) -> dict[str, jax.Array]:
        variables, mutable = {"params": params}, [mixture.OBSERVED]
        encoded, of_inputs = model.apply(
            variables, inputs, method=model.encode, mutable=mutable
        )
        rows = choices.reshape(-1, choices.shape[-1])
        shifted = scoring.shift_right(rows)
        _, of_choices = model.apply(
            variables, encoded, inputs, shifted, method=model.decode, mutable=mutable
        )
        sums, encoder = {}, []
        observations = mixture.observed(of_inputs) | mixture.observed(of_choices)
        for place, values in observations.items():
            reads_inputs = mixture.reads_inputs(place)
            tokens = inputs if reads_inputs else choices
            real = (tokens != PAD_ID).reshape(len(inputs), 1, -1, 1)
            weights = values["weights"]
            weights = weights.reshape(len(weights), len(inputs), -1, weights.shape[-1])
            weights = jnp.moveaxis(weights, 1, 0).astype(jnp.float32)
            sums[place] = jnp.sum(jnp.where(real, weights, 0), axis=2)
            if place.startswith("encoder/"):
                encoder.append(weights.mean(axis=1))
        if encoder:
            sums["tokens"] = jnp.mean(jnp.stack(encoder), axis=0)
        return sums

    return trace


def batches_of(
    examples: Sequence[token_store.Example], *, most_rows: int, shares: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns inputs and choices of batches of one shape, the examples in their order.

    The last one is filled up with the first examples. Shapes are few, as each is a
    compile.

    Args:
      examples: One or more.
      most_rows: Of a batch; a multiple of `shares`.
      shares: Into which the devices split a batch.
    """
    size = min(most_rows, -(-len(examples) // shares) * shares)
    total = -(-len(examples) // size) * size
    rows = [examples[place % len(examples)] for place in range(total)]
    most = 1 << (max(len(row.choices) for row in rows) - 1).bit_length()
    longest = max(len(choice) for row in rows for choice in row.choices)
    length = batching.round_up(longest, least=8)
    choices = np.full((total, most, length), PAD_ID, np.int32)
    for place, row in enumerate(rows):
        choices[place, : len(row.choices)] = batching.pad(row.choices, length)
    inputs = [row.inputs for row in rows]
    longest = max(map(len, inputs))
    padded = batching.pad(inputs, batching.round_up(longest, least=32))
    starts = range(0, total, size)
    return [(padded[i : i + size], choices[i : i + size]) for i in starts]


def array_of(
    weights: Mapping[str, np.ndarray],
    examples: Sequence[token_store.Example],
    vocabulary: SentencePiece,
    experts: Sequence[str],
) -> np.ndarray:
    """Returns a trace as uint8 [bytes].

    Args:
      weights: What a trace function gave of these examples, a row each, and perhaps
        of others behind them.
      examples: One or more.
      vocabulary: Of their tokens.
      experts: Names of the experts.
    """
    number = len(examples)
    places, means = [], []
    for place in sorted(weights.keys() - {"tokens"}, key=_order):
        values = np.asarray(weights[place][:number], np.float64)
        count = sum(_num_tokens(place, example) for example in examples)
        for layer in range(values.shape[1]):
            places.append(f"{place.replace('/layers/', '/')} {layer}")
            means.append(values[:, layer].sum(axis=0) / max(count, 1))
    shown = examples[:_MOST_SHOWN] if "tokens" in weights else ()
    content = {
        "num_rows": number,
        "experts": [*experts],
        "places": places,
        "weights": [_rounded(mean) for mean in means],
        "pieces": [
            [vocabulary.decode([int(token)]) for token in example.inputs[:_MOST_TOKENS]]
            for example in shown
        ],
        "of_pieces": [
            [*map(_rounded, of_tokens[: len(example.inputs)][:_MOST_TOKENS])]
            for example, of_tokens in zip(
                shown, weights.get("tokens", ()), strict=False
            )
        ],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return np.frombuffer(text.encode(), np.uint8)


def _order(place: str) -> tuple[Any, ...]:
    """Returns the sort key of a place: encoder first, then in a layer's order.

    >>> key = "decoder/layers/encoder_decoder_attention/key_adapter"
    >>> _order(key) < _order("decoder/layers/mlp_adapter")
    True
    """
    stack, *names = place.replace("/layers/", "/").removesuffix("_adapter").split("/")
    sub_layer = _ALIASES.get(names[0], names[0])
    ranks = [
        _rank(_SUB_LAYERS, sub_layer),
        *(_rank(_PARTS, name) for name in names[1:]),
    ]
    return stack != "encoder", ranks, place


def _rank(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _num_tokens(place: str, example: token_store.Example) -> int:
    """Returns how many tokens of an example an adapter sees, of all its choices."""
    rows = [example.inputs] if mixture.reads_inputs(place) else example.choices
    return sum(int(np.count_nonzero(row != PAD_ID)) for row in rows)


def read(array: np.ndarray) -> Trace:
    """Returns the trace that an array holds.

    Raises:
      DataError: It holds none.
    """
    try:
        content = json.loads(array.astype(np.uint8).tobytes().decode())
        trace = Trace(
            int(content["num_rows"]),
            tuple(map(str, content["experts"])),
            tuple(map(str, content["places"])),
            np.array(content["weights"], np.float64),
            tuple(tuple(map(str, pieces)) for pieces in content["pieces"]),
            tuple(np.array(row, np.float64) for row in content["of_pieces"]),
        )
        _check(trace)
    except (KeyError, TypeError, ValueError) as error:
        raise errors.DataError(
            found=f"a trace of a router that is none: {error}",
            expected="weights of experts, as elm_eval writes them",
            do="Remove the row and score it again",
        ) from error
    return trace


def _check(trace: Trace) -> None:
    """Raises ValueError for shapes that do not fit, or weights that are no numbers."""
    for rows, values in (
        (len(trace.places), trace.weights),
        *zip(map(len, trace.pieces), trace.of_pieces, strict=True),
    ):
        shape = (rows, len(trace.experts))
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"weights of shape {values.shape}, not {shape}")


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]
