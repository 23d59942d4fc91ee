"""Cross entropy of a batch of targets."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from elm_jax.model import chunked_loss, t5
from elm_jax.types import Batch, LossFn, Metrics, Params

_PACKING = (
    "encoder_segment_ids",
    "encoder_positions",
    "decoder_segment_ids",
    "decoder_positions",
)


def make_loss_fn(model: t5.T5, *, z_loss: float = 0.0) -> LossFn:
    """Returns the loss `(params, batch, dropout_rng) -> (loss, metrics)`.

    Equal models get the same function, so that their programs are compiled once.

    The loss is the mean over weighted target tokens in nats, 0 for a batch without
    any. Metrics are float32 sums over the batch: `loss_sum`, `weight_sum` and
    `correct_sum` (weights of the tokens that are also the most likely ones).

    Args:
      model: The network.
      z_loss: Factor of the squared log of the softmax's normaliser, which is added
        to each token's loss (and so to `loss_sum`) and keeps logits near 0.
    """
    hashable: Any = model  # as all modules of Flax are
    return _make_loss_fn(hashable, z_loss)


@functools.lru_cache(maxsize=64)
def _make_loss_fn(model: t5.T5, z_loss: float) -> LossFn:

    def loss_fn(
        params: Params, batch: Batch, dropout_rng: Any | None
    ) -> tuple[jax.Array, Metrics]:
        num_chunks = model.config.logits_chunks
        outputs: Any = model.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            **{name: batch[name] for name in _PACKING if name in batch},
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            gives_logits=num_chunks == 1,
        )
        targets = batch["decoder_target_tokens"]
        weights = batch["decoder_loss_weights"].astype(jnp.float32)
        if num_chunks > 1:
            kernel = t5.output_kernel(model.config, params)
            options = {"z_loss": z_loss, "num_chunks": num_chunks}
            sums = chunked_loss.sums(outputs, kernel, targets, weights, **options)
        else:
            sums = _sums(outputs, targets, weights, z_loss)
        (loss_sum, correct_sum), weight_sum = sums, jnp.sum(weights)
        loss = jnp.where(
            weight_sum > 0, loss_sum / jnp.where(weight_sum > 0, weight_sum, 1), 0
        )
        return loss, {
            "loss_sum": loss_sum,
            "weight_sum": weight_sum,
            "correct_sum": correct_sum,
        }

    return loss_fn


def _sums(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the summed loss and the weight of tokens that are the most likely."""
    losses, log_z = cross_entropy(logits, targets)
    losses = losses + z_loss * jnp.square(log_z)
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    return jnp.sum(losses * weights), jnp.sum(correct * weights)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns each target's negative log-probability and the log normaliser.

    Args:
      logits: float32 [..., V].
      targets: int32 [...].

    Returns:
      Two float32 arrays [...], in nats.
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_z - chosen, log_z
