"""Parity with Hugging Face transformers on a small random model of each family.

The golden files are made by make_hf_golden.py; they change only if its models do.
"""

import dataclasses
import pathlib
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import config, loss, scoring, t5

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import make_hf_golden as golden  # noqa: E402

# Each length is a program of each family; one that all tests share is fast.
LENGTHS = pytest.mark.parametrize(
    "length",
    [
        pytest.param(
            length,
            marks=() if length == golden.WHOLE_GRADS_LENGTH else pytest.mark.slow,
        )
        for length in golden.LENGTHS
    ],
)


class Small(NamedTuple):
    name: str
    config: config.T5Config
    arrays: dict

    @property
    def params(self):
        return self.tree("params")

    def tree(self, prefix):
        start = f"{prefix}/"
        leaves = {n: a for n, a in self.arrays.items() if n.startswith(start)}
        return trees.unflatten({n.removeprefix(start): a for n, a in leaves.items()})


# Each family has programs of its own; one with gates and one without are fast.
FAMILIES = [
    pytest.param(name, marks=() if name in ("t5_1_0", "t5_1_1") else pytest.mark.slow)
    for name in golden.FAMILIES
]


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    family = golden.FAMILIES[request.param]
    path = pathlib.Path(__file__).with_name(f"hf_golden_{request.param}.npz")
    with np.load(path) as file:
        arrays = dict(file)
    is_gated = family.feed_forward_proj == "gated-gelu"
    shape = config.T5Config(
        vocab_size=golden.VOCAB_SIZE,
        emb_dim=family.d_model,
        num_heads=family.num_heads,
        head_dim=family.d_kv,
        mlp_dim=family.d_ff,
        num_encoder_layers=family.num_layers,
        num_decoder_layers=family.num_decoder_layers,
        mlp_activations=("gelu", "linear") if is_gated else ("relu",),
        logits_via_embedding=family.tie_word_embeddings,
    )
    return Small(request.param, shape, arrays)


@pytest.fixture(scope="module")
def computed(small):
    """Logits, loss and gradient of a length, each compiled and run once."""
    results = {}

    def compute(length, dtype="float32"):
        if (length, dtype) not in results:
            model = t5.T5(dataclasses.replace(small.config, dtype=dtype))
            loss_fn = loss.make_loss_fn(model)

            def run(params, batch):
                logits = model.apply(
                    {"params": params},
                    batch["encoder_input_tokens"],
                    batch["decoder_input_tokens"],
                )
                (mean, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                    params, batch, None
                )
                return logits, mean, grads

            results[length, dtype] = jax.jit(run)(small.params, batch_of(small, length))
        return results[length, dtype]

    return compute


def batch_of(small, length):
    targets = small.arrays[f"{length}/targets"]
    return {
        "encoder_input_tokens": small.arrays[f"{length}/inputs"],
        "decoder_input_tokens": np.asarray(scoring.shift_right(targets)),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets != 0).astype(np.float32),
    }


def is_target(small, length):
    return small.arrays[f"{length}/targets"] != 0


def error_of(array, expected):
    return np.abs(array - expected).max() / np.abs(expected).max()


def test_the_golden_weights_are_all_weights(small):
    assert not trees.diff(small.params, t5.param_shapes(t5.T5(small.config)))


@LENGTHS
def test_logits_equal_those_of_transformers(small, computed, length, assert_close):
    logits = np.asarray(computed(length)[0])[is_target(small, length)]
    assert_close(logits, small.arrays[f"{length}/logits"])


@LENGTHS
def test_the_loss_equals_that_of_transformers(small, computed, length, assert_close):
    assert_close(computed(length)[1], small.arrays[f"{length}/loss"])


@LENGTHS
def test_scores_of_tokens_equal_those_of_transformers(
    small, computed, length, assert_close
):
    targets = small.arrays[f"{length}/targets"]
    losses, _ = loss.cross_entropy(computed(length)[0], targets)
    scores = -np.asarray(losses)[is_target(small, length)]
    assert_close(scores, small.arrays[f"{length}/scores"])


@LENGTHS
def test_norms_of_gradients_equal_those_of_transformers(small, computed, length):
    grads = trees.flatten(computed(length)[2])
    norms = [np.linalg.norm(np.asarray(g, np.float64)) for g in grads.values()]
    np.testing.assert_allclose(norms, small.arrays[f"{length}/grad_norms"], rtol=1e-5)


def test_gradients_equal_those_of_transformers(small, computed, assert_close):
    grads = trees.flatten(computed(golden.WHOLE_GRADS_LENGTH)[2])
    expected = trees.flatten(small.tree("grads"))
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        assert_close(grad, expected[name])


@pytest.mark.slow
def test_bfloat16_compute_stays_near_float32(small, computed):
    """Two bounds: what rounding to 8 bits may do, and that it does something."""
    length = 128
    logits, mean, grads = computed(length, "bfloat16")
    assert logits.dtype == np.float32
    logits = np.asarray(logits)[is_target(small, length)]
    assert 1e-4 < error_of(logits, small.arrays[f"{length}/logits"]) < 0.05
    np.testing.assert_allclose(mean, small.arrays[f"{length}/loss"], rtol=0.01)
    norms = [np.linalg.norm(grad) for grad in trees.flatten(grads).values()]
    np.testing.assert_allclose(norms, small.arrays[f"{length}/grad_norms"], rtol=0.1)
    assert all(grad.dtype == np.float32 for grad in trees.flatten(grads).values())


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.FAMILIES)
def test_transformers_still_computes_the_golden_files(name):
    """Recomputed with whatever torch and transformers are installed."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    path = pathlib.Path(__file__).with_name(f"hf_golden_{name}.npz")
    with np.load(path) as file:
        expected = dict(file)
    arrays = golden.compute(golden.FAMILIES[name])
    assert arrays.keys() == expected.keys()
    for key, array in arrays.items():
        assert array.dtype == expected[key].dtype
        assert error_of(array, expected[key]) <= 1e-6
