"""A folded expert is a plain model that computes the same."""

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.model import t5
from elm_jax.peft import bottleneck, fold, ia3, lora
from tests.peft.sample import SHAPE, random_params, run


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [lora.Lora(targets="/"), lora.Lora(rank_stabilized=True), ia3.Ia3(targets="/")],
)
def test_a_folded_model_gives_the_same_logits(spec):
    model = t5.T5(SHAPE, spec.adapter_fn(SHAPE.emb_dim))
    params = random_params(model)
    folded = fold.fold(params, spec)
    plain = t5.T5(SHAPE)
    assert not trees.diff(folded, t5.param_shapes(plain))
    expected = run(model, params)
    # Products in another order.
    error = np.abs(run(plain, folded) - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_a_fresh_expert_folds_to_the_base_bit_for_bit():
    spec = lora.Lora(targets="/")
    params = t5.init_params(t5.T5(SHAPE, spec), seed=0)
    _, base = trees.split(params, "_adapter/")
    assert trees.fingerprint(fold.fold(params, spec)) == trees.fingerprint(base)


def test_a_bottleneck_cannot_be_folded():
    spec = bottleneck.Bottleneck()
    with pytest.raises(errors.ConfigError, match="bottleneck"):
        fold.fold({}, spec)
