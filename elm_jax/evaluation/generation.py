"""Free-form answers: inputs to decoded texts."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from elm_jax import errors, types
from elm_jax.evaluation import batching


class InputExample(Protocol):
    """An example with tokenised inputs."""

    @property
    def inputs(self) -> np.ndarray:
        """Int32 [length]."""
        ...

    @property
    def example_id(self) -> int:
        """The dataset's row, the same under every prompt."""
        ...


class Examples(Protocol):
    """Examples by position, such as a list or a tokenised dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> InputExample: ...


class Written(NamedTuple):
    """The texts that a model wrote, in the order of the examples.

    Attributes:
      texts: One text per example.
      are_cut: bool [n], whether the model had not ended at the greatest length.
    """

    texts: list[str]
    are_cut: np.ndarray


def generate(
    decode_fn: Callable[[np.ndarray, np.ndarray], Any],
    examples: Examples,
    *,
    decode_text: Callable[[list[int]], str],
    batch_size: int,
    least_input_length: int = 32,
    progress: batching.Progress | None = None,
) -> Written:
    """Returns the text that the model writes for each example, in their order.

    Args:
      decode_fn: Maps inputs int32 [batch, length] and example ids int32 [batch] to
        tokens int32 [batch, length]; the parameters are already in it.
      examples: Any number of examples.
      decode_text: Maps token ids, without end and padding, to text.
      batch_size: Examples per call of `decode_fn`, all devices together.
      least_input_length: Inputs are padded to this length at least.
      progress: Called after every batch with examples done and in all.

    Raises:
      CheckpointError: The model's logits are not finite for an example.
    """
    rows = [examples[index] for index in range(len(examples))]
    if not rows:
        return Written([], np.zeros(0, bool))
    inputs = [row.inputs for row in rows]
    ids = np.array([row.example_id for row in rows], np.int32)
    lengths = [batching.round_up(len(row), least=least_input_length) for row in inputs]

    def arguments(positions: np.ndarray) -> tuple[np.ndarray, ...]:
        longest = max(lengths[position] for position in positions)
        batch = [inputs[position] for position in positions]
        return batching.pad(batch, longest), ids[positions]

    keys = [(lengths[i], row.tobytes()) for i, row in enumerate(inputs)]
    texts, are_cut = [""] * len(inputs), np.zeros(len(inputs), bool)
    for position, tokens in batching.run(
        decode_fn,
        batching.cut(keys, batch_size),
        arguments,
        total=len(inputs),
        progress=progress,
    ):
        if types.NOT_FINITE_ID in tokens:
            raise errors.CheckpointError(
                found="logits that are not finite for example"
                f" {rows[position].example_id}",
                expected="finite ones: of others no answer can be chosen",
                do="Look at the losses of the training behind these parameters, or"
                " at where they were imported from",
            )
        answer = _until_end(tokens.tolist())
        texts[position] = decode_text(answer)
        are_cut[position] = len(answer) == len(tokens)
    return Written(texts, are_cut)


def _until_end(tokens: Sequence[int]) -> list[int]:
    """Returns the tokens before the first end token or padding.

    >>> _until_end([7, 8, 1, 9])
    [7, 8]
    """
    ends = (i for i, t in enumerate(tokens) if t in (types.EOS_ID, types.PAD_ID))
    return list(tokens[: next(ends, len(tokens))])
