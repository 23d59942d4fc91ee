import types

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.evaluation import generation


def echo(inputs, example_ids):
    """Repeats the inputs, then an end token and something after it."""
    rows = [np.concatenate([row[row > 0], [1, 9]]) for row in inputs]
    width = inputs.shape[1] + 2
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows])


def examples(*texts):
    return [
        types.SimpleNamespace(inputs=np.array(text, np.int32), example_id=number)
        for number, text in enumerate(texts)
    ]


def join(ids):
    return " ".join(map(str, ids))


def test_texts_come_back_in_order_and_end_before_the_end_token():
    dataset = examples([7, 8], [5], [6] * 40, [3, 4, 5])
    for batch_size in (1, 3, 10):
        texts, are_cut = generation.generate(
            echo, dataset, decode_text=join, batch_size=batch_size
        )
        assert texts == ["7 8", "5", " ".join(["6"] * 40), "3 4 5"]
        assert not are_cut.any()


def test_no_examples_give_no_texts():
    written = generation.generate(echo, [], decode_text=join, batch_size=4)
    assert (written.texts, written.are_cut.tolist()) == ([], [])


def test_a_model_that_never_ends_is_cut_at_its_length_and_told():
    texts, are_cut = generation.generate(
        lambda inputs, example_ids: np.full((len(inputs), 3), 7),
        examples([5]),
        decode_text=join,
        batch_size=2,
    )
    assert texts == ["7 7 7"]
    assert are_cut.tolist() == [True]


def test_each_example_brings_its_id():
    dataset = examples([7, 8], [5], [6] * 40, [3, 4, 5])
    for batch_size in (1, 3):
        texts, _ = generation.generate(
            lambda inputs, ids: np.stack([inputs[:, 0], ids + 100], axis=1),
            dataset,
            decode_text=join,
            batch_size=batch_size,
        )
        assert texts == ["7 100", "5 101", "6 102", "3 103"]


def test_an_answer_from_logits_that_are_not_finite_is_refused():
    with pytest.raises(errors.CheckpointError, match="not finite for example 1"):
        generation.generate(
            lambda inputs, ids: np.where(ids == 1, -1, 7)[:, None],
            examples([5], [6]),
            decode_text=join,
            batch_size=2,
        )
