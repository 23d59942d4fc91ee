import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest
import sentencepiece

from elm_jax import errors
from elm_jax.data import seqio_tasks, vocabulary

TEXTS = st.lists(
    st.sampled_from(["the red apple", "What?", "é \u0130", "<extra_id_3>", "  ", "\n"])
    | st.text(max_size=12),
    max_size=6,
).map(" ".join)


def test_encodes_and_decodes_as_seqio_does(vocab):
    seqio_tasks.import_seqio()
    theirs = vocab.seqio()
    assert theirs.vocab_size == vocab.size

    @hypothesis.given(TEXTS)
    @hypothesis.settings(max_examples=200, deadline=None)
    def check(text):
        ids = vocab.encode(text)
        assert ids == theirs.encode(text) == theirs.encode_tf(text).numpy().tolist()
        assert vocab.decode([*ids, 1, 5, 0]) == theirs.decode([*ids, 1, 5, 0])

    check()


def test_sentinels_count_down_from_the_highest_id(vocab):
    for index in (0, 1, 99):
        text = f"<extra_id_{index}>"
        assert vocab.encode(text)[-1] == vocab.sentinel_id(index)
    assert vocab.sentinel_id(0) == vocab.size - 1
    with pytest.raises(errors.ConfigError, match="sentinel 100"):
        vocab.sentinel_id(100)


def test_a_batch_encodes_as_one_by_one(vocab):
    texts = ["The house is red.", "", "blue, black"]
    assert vocab.encode_batch(texts) == [vocab.encode(text) for text in texts]


def test_fingerprint_follows_content_not_place(vocab, tmp_path):
    copy = tmp_path / "copy.model"
    copy.write_bytes(pathlib.Path(vocab.path).read_bytes())
    assert vocabulary.SentencePiece(str(copy)).fingerprint == vocab.fingerprint
    assert vocabulary.SentencePiece(str(copy), 50).fingerprint != vocab.fingerprint


def test_a_missing_or_wrong_file_is_told_with_its_path(tmp_path):
    with pytest.raises(errors.DataError, match="no readable vocabulary"):
        vocabulary.SentencePiece(str(tmp_path / "none")).encode("a")
    wrong = tmp_path / "wrong.model"
    wrong.write_bytes(b"not a model")
    with pytest.raises(errors.DataError, match="wrong.model"):
        vocabulary.SentencePiece(str(wrong)).encode("a")
    with pytest.raises(errors.ConfigError, match="extra_ids=-1"):
        vocabulary.SentencePiece(str(wrong), extra_ids=-1)


def test_other_special_ids_are_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three", "four five six"]),
        model_prefix=str(tmp_path / "default"),
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(errors.DataError, match="pad_id=0, eos_id=1"):
        vocabulary.SentencePiece(str(tmp_path / "default.model")).encode("one")
