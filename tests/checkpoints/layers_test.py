import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from elm_jax import errors, trees
from elm_jax.checkpoints import layers


@hypothesis.settings(max_examples=20)
@hypothesis.given(encoder=st.integers(1, 12), decoder=st.integers(1, 12))
def test_stacking_and_unstacking_are_inverses(encoder, decoder):
    rng = np.random.default_rng(encoder)
    tree = trees.unflatten(
        {
            "encoder/layers/mlp/wi/kernel": rng.normal(size=(encoder, 2, 3)),
            "decoder/layers/scale": rng.normal(size=(decoder, 2)),
            "decoder/decoder_norm/scale": rng.normal(size=(2,)),
        }
    )
    again = layers.stack_layers(layers.unstack_layers(tree))
    assert trees.fingerprint(again) == trees.fingerprint(tree)


def test_all_that_is_wrong_with_stacks_is_said_at_once():
    scale = np.ones(2)
    tree = {
        "encoder": {"layers_0": {"scale": scale}, "layers_2": {"scale": scale}},
        "decoder": {"layers_0": {"scale": scale}, "layers_1": {"scale": np.ones(3)}},
    }
    with pytest.raises(errors.CheckpointError) as caught:
        layers.stack_layers(tree)
    assert "encoder/layers/scale is not in layers [1]" in str(caught.value)
    assert "decoder/layers/scale has shapes [(2,), (3,)]" in str(caught.value)
