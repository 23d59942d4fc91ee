"""Beam search: parity with Hugging Face and with a plain search, ends and ties."""

import itertools
import re

import jax
import numpy as np
import pytest

from elm_jax.model import beam_search, decoding
from elm_jax.model.decoding_spec import GREEDY, BeamSearch

pytestmark = pytest.mark.slow

# As in make_decode_golden.py.
PENALTIES, STOPPING = (-0.5, 0.0, 0.6, 1.0, 2.0), (True, False, "never")


def assert_equals_hugging_face(golden, kind, num_beams, penalty, stopping):
    model, params = golden.model(kind)
    spec = BeamSearch(
        num_beams=num_beams, length_penalty=penalty, early_stopping=stopping
    )
    search = beam_search.make_search_fn(model, spec, max_decode_len=12)
    tokens, scores = search(params, golden.arrays["inputs"])
    case = f"{kind}/beams_{num_beams}_penalty_{penalty}_stopping_{stopping}"
    expected = golden.arrays[f"tokens/{case}"]
    np.testing.assert_array_equal(tokens, expected, err_msg=case)
    # Sums of up to twelve log-probabilities, each good to 1e-6.
    expected = golden.arrays[f"scores/{case}"]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, err_msg=case)


@pytest.mark.parametrize(
    ("kind", "num_beams", "penalty", "stopping"),
    [
        ("untied", 2, 2.0, True),
        ("untied", 4, 0.6, False),
        ("untied", 7, -0.5, "never"),
        ("tied", 4, 1.0, "never"),
    ],
)
def test_tokens_and_scores_equal_those_of_hugging_face(
    decode_golden, kind, num_beams, penalty, stopping
):
    assert_equals_hugging_face(decode_golden, kind, num_beams, penalty, stopping)


@pytest.mark.parametrize("num_beams", [2, 4, 7])
def test_all_cases_equal_those_of_hugging_face(decode_golden, num_beams):
    for penalty, stopping in itertools.product(PENALTIES, STOPPING):
        assert_equals_hugging_face(
            decode_golden, "untied", num_beams, penalty, stopping
        )


def plain_search(log_probs_of, spec, max_decode_len):
    """Returns the tokens that a search with lists gives; it never stops early.

    `log_probs_of` maps a tuple of tokens to the float32 [V] of the next.
    """

    def score(log_prob, length):
        if spec.rules == "t5x":
            length = (5 + length) / 6
        return log_prob / length**spec.length_penalty

    live, done = [(np.float32(0), ())], []
    for length in range(1, max_decode_len + 1):
        candidates = []
        for log_prob, tokens in live:
            following = log_prob + log_probs_of(tokens)
            candidates += [(lp, (*tokens, t)) for t, lp in enumerate(following)]
        candidates = sorted(candidates, key=lambda each: -each[0])[: 2 * spec.num_beams]
        for rank, (log_prob, tokens) in enumerate(candidates):
            may_end = tokens[-1] == 1
            if spec.rules == "huggingface":
                may_end |= length == max_decode_len
                may_end &= rank < spec.num_beams
            if may_end:
                done.append((score(log_prob, length), tokens))
        done = sorted(done, key=lambda each: -each[0])[: spec.num_beams]
        live = [each for each in candidates if each[1][-1] != 1][: spec.num_beams]
    best = (done or live)[0][1]
    return [*best, *[0] * (max_decode_len - len(best))]


def make_log_probs_of(model, params, max_decode_len):
    """Returns `(inputs [S]) -> log_probs_of`, computed without a cache."""
    width = max_decode_len + 1
    apply = jax.jit(
        lambda inputs, row: jax.nn.log_softmax(
            model.apply({"params": params}, inputs[None], row[None])
        )[0]
    )

    def bind(inputs):
        def log_probs_of(tokens):
            row = np.zeros(width, np.int32)
            row[1 : len(tokens) + 1] = tokens
            return np.asarray(apply(inputs, row))[len(tokens)]

        return log_probs_of

    return bind


def assert_equals_plain_search(model, params, inputs, spec, max_decode_len):
    search = beam_search.make_search_fn(model, spec, max_decode_len=max_decode_len)
    tokens, _ = search(params, inputs)
    bind = make_log_probs_of(model, params, max_decode_len)
    for row, beams_best in zip(inputs, np.asarray(tokens), strict=True):
        expected = plain_search(bind(row), spec, max_decode_len)
        np.testing.assert_array_equal(beams_best, expected)


@pytest.mark.parametrize(
    ("num_beams", "penalty", "max_decode_len"), [(1, 0.6, 7), (3, 0.0, 3), (3, 1.5, 7)]
)
def test_the_rules_of_t5x_give_what_a_plain_search_gives(
    decode_golden, num_beams, penalty, max_decode_len
):
    spec = BeamSearch(
        num_beams=num_beams,
        rules="t5x",
        length_penalty=penalty,
        early_stopping="never",
    )
    model, params = decode_golden.model("untied")
    inputs = decode_golden.arrays["inputs"][5:]
    assert_equals_plain_search(model, params, inputs, spec, max_decode_len)


def test_more_beams_than_tokens_find_the_best_of_all(decode_golden):
    spec = BeamSearch(num_beams=20, early_stopping="never")  # of 16 tokens
    model, params = decode_golden.model("untied")
    inputs = decode_golden.arrays["inputs"][:4]
    assert_equals_plain_search(model, params, inputs, spec, 2)
    search = beam_search.make_search_fn(model, spec, max_decode_len=2)
    bind = make_log_probs_of(model, params, 2)
    for row, best in zip(inputs, np.asarray(search(params, inputs)[0]), strict=True):
        log_probs_of = bind(row)
        first = log_probs_of(())
        scores = {(1, 0): first[1]}
        for a, b in itertools.product([t for t in range(16) if t != 1], range(16)):
            scores[a, b] = (first[a] + log_probs_of((a,))[b]) / 2
        assert tuple(best.tolist()) == max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_of_equal_hypotheses_the_first_wins(decode_golden, penalty):
    model, params = decode_golden.model("untied")
    indifferent = {"kernel": np.zeros((32, 16), np.float32)}
    params = params | {"decoder": params["decoder"] | {"logits_dense": indifferent}}
    spec = BeamSearch(num_beams=3, length_penalty=penalty, early_stopping="never")
    search = beam_search.make_search_fn(model, spec, max_decode_len=5)
    tokens, _ = search(params, decode_golden.arrays["inputs"][:2])
    # The end alone is likeliest; with a penalty the longest, of token 0 each time.
    expected = [1, 0, 0, 0, 0] if penalty == 0 else [0] * 5
    np.testing.assert_array_equal(tokens, [expected] * 2)


def test_inputs_are_searched_alike_in_any_company(decode_golden):
    model, params = decode_golden.model("untied")
    inputs = decode_golden.arrays["inputs"]
    spec = BeamSearch(num_beams=4, early_stopping=True)
    search = beam_search.make_search_fn(model, spec, max_decode_len=12)
    tokens, scores = search(params, inputs)
    padded = np.pad(inputs[6:9], ((0, 2), (0, 3)))
    others, other_scores = search(params, padded)
    np.testing.assert_array_equal(others[:3], tokens[6:9])
    np.testing.assert_allclose(other_scores[:3], scores[6:9], rtol=1e-5)
    assert np.all(others[3:] == 0)
    assert np.all(np.isneginf(other_scores[3:]))


def test_beams_share_the_keys_and_values_of_their_input(decode_golden):
    """No array over input positions grows with the number of beams."""
    model, params = decode_golden.model("untied")
    inputs = np.pad(decode_golden.arrays["inputs"][:4], ((0, 0), (0, 18)))  # 4 x 29

    def largest(spec):
        decode = decoding.make_decode_fn(model, spec, max_decode_len=5)
        ids = np.zeros(4, np.int32)
        program = jax.jit(decode).lower(params, inputs, ids).as_text()
        shapes = re.findall(r"tensor<([\dx]+)xf32>", program)
        sizes = [[int(size) for size in shape.split("x")] for shape in shapes]
        return max(int(np.prod(size)) for size in sizes if 29 in size)

    assert largest(BeamSearch(num_beams=5)) == largest(GREEDY)
