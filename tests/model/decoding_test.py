"""Decoding: parity with peers, the cache, ends and padding, base and adapter."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from elm_jax import trees
from elm_jax.model import decoding, t5
from elm_jax.model.decoding_spec import GREEDY, BeamSearch, Sampling
from elm_jax.peft import bottleneck, ia3, lora
from elm_jax.types import NOT_FINITE_ID

IDS = np.arange(32, dtype=np.int32)


def test_greedy_tokens_equal_those_of_t5x(tiny):
    decode = decoding.make_decode_fn(tiny.model, GREEDY, max_decode_len=12)
    tokens = decode(tiny.params, tiny.batch["encoder_input_tokens"], IDS[:4])
    np.testing.assert_array_equal(tokens, tiny.reference["greedy_tokens"])
    assert tokens.dtype == np.int32


@pytest.mark.slow
def test_cached_steps_give_the_logits_of_the_whole_target(tiny, apply, assert_close):
    inputs = tiny.batch["encoder_input_tokens"]
    targets = tiny.batch["decoder_input_tokens"]
    cache = apply("start_decoding", inputs, max_decode_len=12)
    steps = []
    for position in range(12):
        tokens = targets[:, position]
        logits, cache = apply("decode_step", inputs, tokens, np.int32(position), cache)
        steps.append(logits)
    assert_close(np.stack(steps, axis=1), apply("__call__", inputs, targets))


def with_end_after(params, bias):
    """Returns parameters whose model says the end token more readily."""
    kernel = np.array(params["decoder"]["logits_dense"]["kernel"])
    kernel[:, 1] += bias
    decoder = params["decoder"] | {"logits_dense": {"kernel": kernel}}
    return params | {"decoder": decoder}


@pytest.mark.slow
def test_nothing_follows_the_end_token(tiny):
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, 384, (32, 9)).astype(np.int32)
    decode = decoding.make_decode_fn(tiny.model, GREEDY, max_decode_len=10)
    params = with_end_after(tiny.params, rng.normal(size=32).astype(np.float32) * 0.3)
    tokens = np.asarray(decode(params, inputs, IDS))
    lengths = set()
    for row in tokens:
        ends = np.flatnonzero(row == 1)
        lengths.add(len(ends) and int(ends[0]))
        if len(ends):
            assert np.all(row[ends[0] + 1 :] == 0)
    assert len(lengths) > 2  # rows that end at different places were compared


@pytest.mark.slow
def test_rows_are_decoded_alike_in_any_company(tiny):
    inputs = tiny.batch["encoder_input_tokens"]
    decode = decoding.make_decode_fn(tiny.model, GREEDY, max_decode_len=6)
    together = decode(tiny.params, np.pad(inputs, ((0, 3), (0, 4))), IDS[:7])
    np.testing.assert_array_equal(together[:4], tiny.reference["greedy_tokens"][:, :6])
    assert np.all(together[4:] == 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_greedy_tokens_equal_those_of_hugging_face(decode_golden, kind):
    model, params = decode_golden.model(kind)
    inputs = decode_golden.arrays["inputs"]
    # One beam is greedy there.
    for spec in (GREEDY, BeamSearch(num_beams=1, length_penalty=2.0)):
        decode = decoding.make_decode_fn(model, spec, max_decode_len=12)
        tokens = decode(params, inputs, IDS[:12])
        np.testing.assert_array_equal(
            tokens, decode_golden.arrays[f"tokens/{kind}/greedy"]
        )


ADAPTERS = {
    "bottleneck": bottleneck.Bottleneck(reduction_factor=8),
    # A small scale: far larger logits would magnify rounding beyond the tolerance.
    "lora": lora.Lora(rank=4, alpha=2.0, targets="/"),
    "ia3": ia3.Ia3(),
}


@pytest.fixture(scope="module", params=ADAPTERS)
def adapted(request, decode_golden):
    """The golden model with adapters far from the identity."""
    bare, params = decode_golden.model("untied")
    spec = ADAPTERS[request.param]
    model = t5.T5(bare.config, adapters=spec.adapter_fn(bare.config.emb_dim))
    rng = np.random.default_rng(0)
    drawn = {
        name: rng.normal(size=leaf.shape).astype(np.float32) * np.float32(0.3)
        for name, leaf in trees.flatten(t5.param_shapes(model)).items()
    }
    assert len(drawn) > len(trees.flatten(params))
    return model, trees.replace(trees.unflatten(drawn), params)


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [1, 3])
def test_cached_steps_of_base_and_adapter_give_the_logits_of_the_whole_target(
    adapted, decode_golden, num_rows, assert_close
):
    model, params = adapted
    inputs = decode_golden.arrays["inputs"]
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 16, (12 * num_rows, 6)).astype(np.int32)
    variables = {"params": params}
    encoded = model.apply(variables, inputs, method="encode")
    whole = model.apply(variables, encoded, inputs, targets, method="decode")
    base = {"params": decode_golden.model("untied")[1]}
    bare = t5.T5(model.config)
    encoded = bare.apply(base, inputs, method="encode")
    without = bare.apply(base, encoded, inputs, targets, method="decode")
    assert np.abs(whole - without).max() > 0.1
    cache = model.apply(
        variables,
        inputs,
        max_decode_len=6,
        rows_per_input=num_rows,
        method="start_decoding",
    )
    step = jax.jit(lambda *args: model.apply(variables, *args, method="decode_step"))
    steps = []
    for position in range(6):
        logits, cache = step(inputs, targets[:, position], np.int32(position), cache)
        steps.append(logits)
    assert_close(np.stack(steps, axis=1), whole)


@pytest.mark.slow
def test_a_sample_is_the_same_in_any_batch_and_order(decode_golden):
    model, params = decode_golden.model("untied")
    inputs = decode_golden.arrays["inputs"]
    spec = Sampling(temperature=1.2, top_k=12, top_p=0.95, seed=5)
    decode = decoding.make_decode_fn(model, spec, max_decode_len=12)
    tokens = np.asarray(decode(params, inputs, IDS[:12]))
    backwards = decode(params, inputs[::-1], IDS[:12][::-1])
    np.testing.assert_array_equal(backwards, tokens[::-1])
    few = decode(params, np.pad(inputs[3:5], ((0, 0), (0, 5))), IDS[3:5])
    np.testing.assert_array_equal(few, tokens[3:5])
    again = decode(params, inputs, IDS[:12] + 100)
    assert (again != tokens).any(axis=1).all()


@pytest.mark.slow
def test_the_golden_file_is_what_its_script_makes(decode_golden):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    path = pathlib.Path(__file__).with_name("make_decode_golden.py")
    spec = importlib.util.spec_from_file_location("make_decode_golden", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    arrays = script.make()
    assert set(arrays) == set(decode_golden.arrays)
    for name, array in arrays.items():
        stored = decode_golden.arrays[name]
        if array.dtype == np.int32:
            np.testing.assert_array_equal(array, stored, err_msg=name)
        else:
            np.testing.assert_allclose(
                array, stored, rtol=1e-5, atol=1e-6, err_msg=name
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        *(GREEDY, Sampling(), BeamSearch(num_beams=2)),
        BeamSearch(num_beams=2, rules="t5x", early_stopping="never"),
    ],
)
def test_logits_that_are_not_finite_give_no_token_and_leave_the_others_alone(
    tiny, spec
):
    inputs = np.array([[5, 6, 1], [5, 200, 1]], np.int32)
    embedding = np.array(tiny.params["token_embedder"]["embedding"])
    embedding[200] = np.nan
    params = tiny.params | {"token_embedder": {"embedding": embedding}}
    decode = decoding.make_decode_fn(tiny.model, spec, max_decode_len=4)
    expected = np.asarray(decode(tiny.params, inputs, IDS[:2]))
    written = np.asarray(decode(params, inputs, IDS[:2]))
    np.testing.assert_array_equal(written[0], expected[0])
    assert NOT_FINITE_ID in written[1]
    assert NOT_FINITE_ID not in expected
