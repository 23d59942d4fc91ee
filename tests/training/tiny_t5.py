"""A tiny T5 with adapters to train, and its batches."""

import functools

import jax
import numpy as np

from elm_jax.model import config, loss, t5
from elm_jax.peft import bottleneck, expert_parts, ia3, lora
from elm_jax.training import optimizers
from tests import drawn

SHAPE = config.T5Config(
    vocab_size=32,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.1,
)
KINDS = {
    "bottleneck": (
        bottleneck.Bottleneck(reduction_factor=4),
        expert_parts.PROMPT_EXPERT,
    ),
    "lora": (lora.Lora(rank=2), expert_parts.ADAPTERS),
    "ia3": (ia3.Ia3(), expert_parts.ADAPTERS),
}


def batch_of(seed, packed=False):
    rng = np.random.default_rng(seed)
    inputs = rng.integers(2, 32, (4, 8)).astype(np.int32)
    targets = rng.integers(2, 32, (4, 4)).astype(np.int32)
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": targets,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones((4, 4), np.float32),
    }
    if packed:
        batch["encoder_segment_ids"] = np.repeat([[1, 2]], 4, 0).repeat(4, 1)
        batch["decoder_segment_ids"] = np.repeat([[1, 2]], 4, 0).repeat(2, 1)
        for side in ("encoder", "decoder"):
            ids = batch[f"{side}_segment_ids"].astype(np.int32)
            batch |= {f"{side}_segment_ids": ids, f"{side}_positions": ids}
    return batch


@functools.cache
def make(kind):
    """Returns (loss_fn, tx, trainable, frozen)."""
    spec, pattern = KINDS[kind]
    model = t5.T5(SHAPE, spec and spec.adapter_fn(SHAPE.emb_dim))
    trained, frozen = expert_parts.split(drawn.params_of(model, seed=0), pattern)
    trained, frozen = jax.device_put((trained, frozen))
    tx = optimizers.AdamW(learning_rate=1e-2, warmup_steps=2).make(20)
    return loss.make_loss_fn(model), tx, trained, frozen
