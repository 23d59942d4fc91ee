"""A seed gives the initial parameters and the dropout that it always gave.

Golden values, made with JAX 0.10.2 and Flax 0.12.8, since experts, bases and all tables
of the READMEs name seeds. To 1e-4, as other processors round otherwise.
"""

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import config, t5
from elm_jax.peft import bottleneck

SHAPE = config.T5Config(
    vocab_size=32,
    emb_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.5,
)
ADAPTER = bottleneck.Bottleneck(reduction_factor=4)
TOKENS = np.arange(1, 9).reshape(1, 8)
SUMS = {
    "token_embedder/embedding": 19.141815,
    "encoder/relpos_bias/rel_embedding": 1.428588,
    "encoder/layers/mlp/wo/kernel": 2.215961,
    "encoder/layers/attention_adapter/down/kernel": 0.075949,
    "decoder/layers/mlp/wo/kernel": 3.904377,
    "decoder/layers/self_attention_adapter/down/kernel": -0.179632,
}
LOGITS = [-3.392194, -0.59, 0.182405, -2.059943]


@pytest.fixture(scope="module")
def model():
    return t5.T5(SHAPE, ADAPTER.adapter_fn(SHAPE.emb_dim))


@pytest.fixture(scope="module")
def params(model):
    return t5.init_params(model, seed=7)


def test_a_seed_gives_the_initial_parameters_that_it_always_gave(params):
    sums = {name: float(leaf.sum()) for name, leaf in trees.flatten(params).items()}
    assert {name: sums[name] for name in SUMS} == pytest.approx(SUMS, abs=1e-4)


def test_a_key_gives_the_dropout_that_it_always_gave(model, params):
    logits = model.apply(
        {"params": params},
        TOKENS,
        TOKENS,
        deterministic=False,
        rngs={"dropout": jax.random.key(3)},
    )
    np.testing.assert_allclose(logits[0, -1, :4], LOGITS, atol=1e-4)
