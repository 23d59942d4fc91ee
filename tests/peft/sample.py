"""A small model, its inputs, and parameters that are nowhere zero or one."""

import jax
import numpy as np

from elm_jax.model import config, t5

SHAPE = config.T5Config(
    vocab_size=96,
    emb_dim=64,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=1,
)
TOKENS = (np.arange(2, 14).reshape(2, 6), np.arange(2, 10).reshape(2, 4))


def random_params(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32),
        t5.param_shapes(model),
    )


def run(model, params):
    return jax.jit(lambda p: model.apply({"params": p}, *TOKENS))(params)
