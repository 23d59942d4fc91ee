"""The tiny T5X model that the tests of this room share.

How its weights and reference outputs came about is in tests/fixtures/t5x_tiny; they
change only if T5X's own network does.
"""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.checkpoints import t5x
from elm_jax.model import config, loss, t5

TINY_DIR = pathlib.Path(__file__).parents[1] / "fixtures" / "t5x_tiny"


class Tiny(NamedTuple):
    config: config.T5Config
    model: t5.T5
    params: dict
    reference: dict
    batch: dict
    packed_batch: dict


@pytest.fixture(scope="session")
def tiny():
    shape = config.T5Config(
        vocab_size=384,
        emb_dim=32,
        num_heads=2,
        head_dim=16,
        mlp_dim=64,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    params, _ = t5x.load_t5x(TINY_DIR / "plain_legacy_opt" / "checkpoint_3")
    with np.load(TINY_DIR / "plain_reference.npz") as file:
        reference = dict(file)
    packed = {
        name.removeprefix("packed_"): reference[name]
        for name in reference
        if name.startswith("packed_") and name != "packed_logits"
    }
    batch = {name: reference[name] for name in packed if name in reference}
    for each in (batch, packed):
        each["decoder_loss_weights"] = each["decoder_loss_weights"].astype(np.float32)
    return Tiny(shape, t5.T5(shape), params, reference, batch, packed)


@pytest.fixture(scope="session")
def loss_and_grad(tiny):
    """The compiled loss of a batch, with T5X's z-loss, and its gradient."""
    loss_fn = loss.make_loss_fn(tiny.model, z_loss=1e-4)
    return jax.jit(lambda p, b: jax.value_and_grad(loss_fn, has_aux=True)(p, b, None))


@pytest.fixture(scope="session")
def apply(tiny):
    """The compiled methods of the tiny model: `apply(method, *args, **kwargs)`."""
    compiled = {}

    def run(method, *args, **static):
        key = (method, *static.items())
        if key not in compiled:
            compiled[key] = jax.jit(
                lambda p, *a: tiny.model.apply(
                    {"params": p}, *a, method=method, **static
                )
            )
        return compiled[key](tiny.params, *args)

    return run


@pytest.fixture(scope="session")
def assert_close():
    """Asserts equality up to `tolerance` times the largest expected value.

    By default that is enough for T5X's numbers, which another program computed: each of
    them is the end of some hundred sums, in another order than here.
    """

    def check(computed, expected, *, where=None, tolerance=1e-5):
        computed, expected = np.asarray(computed), np.asarray(expected)
        assert computed.dtype == expected.dtype
        assert computed.shape == expected.shape
        where = np.ones(expected.shape, bool) if where is None else where
        computed, expected = computed[where], expected[where]
        error = np.abs(computed - expected).max() / np.abs(expected).max()
        assert error <= tolerance

    return check


class DecodeGolden(NamedTuple):
    """What make_decode_golden.py wrote."""

    arrays: dict
    params: dict

    def model(self, kind):
        """Returns the "untied" or "tied" model and its parameters."""
        params = dict(self.params)
        if kind == "tied":
            params["decoder"] = {
                name: leaf
                for name, leaf in params["decoder"].items()
                if name != "logits_dense"
            }
        vocab_size, width = params["token_embedder"]["embedding"].shape
        shape = config.T5Config(
            vocab_size=vocab_size,
            emb_dim=width,
            num_heads=2,
            head_dim=16,
            mlp_dim=64,
            num_encoder_layers=2,
            num_decoder_layers=2,
            logits_via_embedding=kind == "tied",
        )
        return t5.T5(shape), params


@pytest.fixture(scope="session")
def decode_golden():
    with np.load(pathlib.Path(__file__).with_name("decode_golden.npz")) as file:
        arrays = dict(file)
    start = "params/"
    params = {n.removeprefix(start): a for n, a in arrays.items() if start in n}
    return DecodeGolden(arrays, trees.unflatten(params))
