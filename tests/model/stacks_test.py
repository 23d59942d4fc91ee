"""Relative positions per layer: parity with T5X's scanned network.

Its weights and reference outputs are in tests/fixtures/t5x_tiny, as those of the
plain network.
"""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import tensorstore as ts

from elm_jax import trees
from elm_jax.model import decoding, decoding_spec, loss, scoring, t5

TINY_DIR = pathlib.Path(__file__).parents[1] / "fixtures" / "t5x_tiny"
TOKENS = ("encoder_input_tokens", "decoder_input_tokens")


def read_scanned():
    """Returns the fixture's weights: layers from axis 1 to axis 0, heads joined."""
    leaves = {}
    for folder in (TINY_DIR / "scan_legacy_noopt" / "checkpoint_3").glob("target.*"):
        kvstore = {"driver": "file", "path": f"{folder}/"}
        array = ts.open({"driver": "zarr", "kvstore": kvstore}).result().read().result()
        name = folder.name.removeprefix("target.").replace(".", "/")
        for stack in ("encoder", "decoder"):
            if name.startswith(f"{stack}/{stack}/"):
                name = name.replace(f"{stack}/{stack}", f"{stack}/layers")
                array = np.moveaxis(array, 1, 0)
                if "attention/out" in name:
                    array = array.reshape(array.shape[0], -1, array.shape[-1])
                elif "attention/" in name:
                    array = array.reshape(*array.shape[:2], -1)
        leaves[name] = np.asarray(array, np.float32)
    return trees.unflatten(leaves)


@pytest.fixture(scope="module")
def scanned(tiny):
    shape = dataclasses.replace(tiny.config, relpos_per_layer=True)
    with np.load(TINY_DIR / "scan_reference.npz") as file:
        reference = dict(file)
    names = [name for name in tiny.batch if name in reference]
    batch = {name: reference[name] for name in names}
    weights = batch["decoder_loss_weights"].astype(np.float32)
    batch["decoder_loss_weights"] = weights
    return tiny._replace(
        config=shape,
        model=t5.T5(shape),
        params=read_scanned(),
        reference=reference,
        batch=batch,
    )


def test_the_table_lies_within_the_layers(scanned):
    shapes = trees.flatten(t5.param_shapes(scanned.model))
    assert not trees.diff(scanned.params, t5.param_shapes(scanned.model))
    for stack in ("encoder", "decoder"):
        assert shapes[f"{stack}/layers/relpos_bias/rel_embedding"].shape == (2, 2, 32)
        assert f"{stack}/relpos_bias/rel_embedding" not in shapes


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "products", "layer"])
def test_logits_loss_and_gradient_equal_those_of_t5x(scanned, remat, assert_close):
    batch, reference = scanned.batch, scanned.reference
    model = t5.T5(dataclasses.replace(scanned.config, remat=remat))
    loss_fn = loss.make_loss_fn(model, z_loss=1e-4)

    def run(params):
        logits = model.apply({"params": params}, *(batch[name] for name in TOKENS))
        return logits, jax.grad(loss_fn, has_aux=True)(params, batch, None)

    logits, (grads, metrics) = jax.jit(run)(scanned.params)
    is_target = batch["decoder_loss_weights"] > 0
    assert_close(logits, reference["logits"], where=is_target)
    expected = reference["loss_z1e-4"]
    np.testing.assert_allclose(metrics["loss_sum"], expected, rtol=1e-5)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(grads)]
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in leaves)) * is_target.sum()
    np.testing.assert_allclose(norm, reference["grad_global_norm"], rtol=1e-5)


@pytest.mark.slow
def test_scores_and_greedy_tokens_equal_those_of_t5x(scanned, assert_close):
    inputs, reference = scanned.batch["encoder_input_tokens"], scanned.reference
    choices = scanned.batch["decoder_target_tokens"][:, None]
    score = scoring.make_score_fn(scanned.model)
    scores = score(scanned.params, inputs, choices, np.ones((4, 1), bool))
    assert_close(scores[:, 0], reference["scores"])
    decode = decoding.make_decode_fn(
        scanned.model, decoding_spec.GREEDY, max_decode_len=12
    )
    tokens = decode(scanned.params, inputs, np.zeros(4, np.int32))
    np.testing.assert_array_equal(tokens, reference["greedy_tokens"])


@pytest.mark.slow
def test_equal_tables_give_what_one_shared_table_gives(tiny, scanned, assert_close):
    leaves = trees.flatten(tiny.params)
    for stack in ("encoder", "decoder"):
        table = leaves.pop(f"{stack}/relpos_bias/rel_embedding")
        leaves[f"{stack}/layers/relpos_bias/rel_embedding"] = np.stack([table] * 2)
    tokens = [tiny.batch[name] for name in TOKENS]
    params = trees.unflatten(leaves)
    of_tables = jax.jit(scanned.model.apply)({"params": params}, *tokens)
    assert_close(of_tables, jax.jit(tiny.model.apply)({"params": tiny.params}, *tokens))


def test_a_table_per_layer_is_placed_by_the_rules_of_the_mesh(scanned):
    from elm_jax.partitioning import rules

    table = rules.axis_table("data_model")
    name = "encoder/layers/relpos_bias/rel_embedding"
    assert tuple(rules.partition_spec(name, (2, 2, 32), table)) == (None, "model", None)
