"""One vector per text from the model's own encoder."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from elm_jax.model import t5
from elm_jax.types import PAD_ID, Params

Array = jax.Array


def make_encode_fn(model: t5.T5) -> Callable[[Params, Any], Array]:
    """Returns the compiled `(params, inputs [B, S]) -> vectors [B, D]`.

    A vector is the mean of the encoder's outputs at positions that are not padding,
    divided by its length; float32. An input of padding alone gives zeros.
    """

    @jax.jit
    def encode(params: Params, inputs: Array) -> Array:
        encoded: Any = model.apply({"params": params}, inputs, method=model.encode)
        is_token = (inputs != PAD_ID)[:, :, None]
        total = jnp.sum(jnp.where(is_token, encoded.astype(jnp.float32), 0), axis=1)
        # The mean and the sum have the same direction, which is all that stays.
        norm = jnp.linalg.norm(total, axis=-1, keepdims=True)
        return total / jnp.where(norm > 0, norm, 1)

    return encode
