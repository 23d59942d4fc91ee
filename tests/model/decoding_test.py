"""Greedy decoding: parity with T5X, the cache, ends and padding."""

import numpy as np

from elm_jax.model import decoding


def test_greedy_tokens_equal_those_of_t5x(tiny):
    decode = decoding.make_greedy_decode_fn(tiny.model, max_decode_len=12)
    tokens = decode(tiny.params, tiny.batch["encoder_input_tokens"])
    np.testing.assert_array_equal(tokens, tiny.reference["greedy_tokens"])
    assert tokens.dtype == np.int32


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


def test_nothing_follows_the_end_token(tiny):
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, 384, (32, 9)).astype(np.int32)
    decode = decoding.make_greedy_decode_fn(tiny.model, max_decode_len=10)
    params = with_end_after(tiny.params, rng.normal(size=32).astype(np.float32) * 0.3)
    tokens = np.asarray(decode(params, inputs))
    lengths = set()
    for row in tokens:
        ends = np.flatnonzero(row == 1)
        lengths.add(len(ends) and int(ends[0]))
        if len(ends):
            assert np.all(row[ends[0] + 1 :] == 0)
    assert len(lengths) > 2  # rows that end at different places were compared


def test_rows_are_decoded_alike_in_any_company(tiny):
    inputs = tiny.batch["encoder_input_tokens"]
    decode = decoding.make_greedy_decode_fn(tiny.model, max_decode_len=6)
    together = decode(tiny.params, np.pad(inputs, ((0, 3), (0, 4))))
    np.testing.assert_array_equal(together[:4], tiny.reference["greedy_tokens"][:, :6])
    assert np.all(together[4:] == 0)
