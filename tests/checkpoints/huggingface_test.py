import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import huggingface
from elm_jax.model import config, t5


def shapes(**changes):
    fields = {
        "vocab_size": 11,
        "emb_dim": 6,
        "num_heads": 2,
        "head_dim": 4,
        "mlp_dim": 10,
        "num_encoder_layers": 2,
        "num_decoder_layers": 3,
    }
    return t5.param_shapes(t5.T5(config.T5Config(**(fields | changes))))


@pytest.mark.parametrize(
    "changes",
    [{}, {"mlp_activations": ("relu",), "logits_via_embedding": True}],
)
def test_every_tensor_has_one_place_and_back(changes):
    names = [
        name.replace("/layers/", f"/layers_{n}/")
        for name in trees.flatten(shapes(**changes))
        for n in range(3 if "/layers/" in name else 1)
    ]
    places = {huggingface.place(name).name for name in names}
    assert len(places) == len(names)
    assert sorted(huggingface.plain_name(p) for p in places) == sorted(names)


def test_a_tensor_that_is_not_t5s_is_refused():
    with pytest.raises(errors.CheckpointError, match="PEFT"):
        huggingface.place("encoder/layers_0/mlp_adapter/down/kernel")
    assert huggingface.plain_name("encoder.block.0.layer.0.SelfAttention.q") is None
    assert huggingface.plain_name(huggingface.UNREAD) is None
