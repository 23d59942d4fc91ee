"""What the matrices and factors of a model read, token by token."""

import re
from collections.abc import Callable, Collection
from typing import Any

import jax
from flax import linen as nn

from elm_jax import trees
from elm_jax.model import t5
from elm_jax.types import PAD_ID, Batch, Params

Array = jax.Array
ReadFn = Callable[[Params, Batch], dict[str, Array]]

_SEEN = "intermediates"
# By the last part of a parameter's name, which argument of its module it multiplies.
_ARGUMENTS = {"kernel": 0, "lora_a": 0, "ia3_scale": 1}
# Places that read the encoder's output, one position for each of the inputs'.
_OF_INPUTS = re.compile(r"^encoder/|encoder_decoder_attention/(key|value)(_adapter)?/")


def can_be_seen(name: str) -> bool:
    """Returns whether the inputs that a parameter multiplies can be read."""
    return name.rpartition("/")[2] in _ARGUMENTS


def make_read_fn(model: t5.T5, names: Collection[str]) -> ReadFn:
    """Returns `(params, batch) -> what is read`, by the names of parameters.

    Each is [B, length, width], below a stack of layers [layers, B, length, width], in
    the dtype of the model; `is_token` says which positions are no padding.

    Args:
      model: The network.
      names: Of parameters, `/`-joined; those that `can_be_seen` are given.
    """

    def intercept(
        call: Callable[..., Any], args: Any, kwargs: Any, context: Any
    ) -> Any:
        module = context.module
        if context.method_name == "__call__" and module.scope is not None:
            path = "/".join(module.path)
            for part, place in _ARGUMENTS.items():
                if f"{path}/{part}" in names:
                    module.sow(_SEEN, part, args[place])
        return call(*args, **kwargs)

    def read(params: Params, batch: Batch) -> dict[str, Array]:
        with nn.intercept_methods(intercept):
            result: Any = model.apply(
                {"params": params},
                batch["encoder_input_tokens"],
                batch["decoder_input_tokens"],
                mutable=[_SEEN],
            )
        inputs = trees.flatten(result[1].get(_SEEN, {}))
        return {name: value for name, (value,) in inputs.items()}

    return read


def is_token(name: str, batch: Batch) -> Array:
    """Returns bool [B, length]: where what a parameter reads is of a token.

    Args:
      name: Of the parameter.
      batch: With the targets that decoder positions belong to.
    """
    of_inputs = _OF_INPUTS.search(name)
    tokens = "encoder_input_tokens" if of_inputs else "decoder_target_tokens"
    return batch[tokens] != PAD_ID
