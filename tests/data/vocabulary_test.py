import hashlib
import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest
import sentencepiece

from elm_jax import errors
from elm_jax.data import tensorflow_imports, vocabulary

TEXTS = st.lists(
    st.sampled_from(["the red apple", "What?", "é \u0130", "<extra_id_3>", "  ", "\n"])
    | st.text(max_size=12),
    max_size=6,
).map(" ".join)


def test_encodes_and_decodes_as_seqio_does(vocab):
    tensorflow_imports.import_seqio()
    seqio_vocab = vocab.seqio()
    assert seqio_vocab.vocab_size == vocab.size

    @hypothesis.given(TEXTS)
    @hypothesis.settings(max_examples=200, deadline=None)
    def check(text):
        ids = vocab.encode(text)
        assert (
            ids
            == seqio_vocab.encode(text)
            == seqio_vocab.encode_tf(text).numpy().tolist()
        )
        assert vocab.decode([*ids, 1, 5, 0]) == seqio_vocab.decode([*ids, 1, 5, 0])

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


@pytest.mark.parametrize("start", ["\u2581", ""])
def test_a_file_that_brings_its_sentinels_serves_with_100_and_with_0(
    vocab, bring_sentinels, tmp_path, start
):
    tensorflow_imports.import_seqio()
    import seqio

    path = bring_sentinels(tmp_path / "own.model", reversed(range(100)), start)
    right = seqio.SentencePieceVocabulary(path, extra_ids=0)
    both = [vocabulary.SentencePiece(path, count) for count in (100, 0)]
    assert both[0].fingerprint == both[1].fingerprint != vocab.fingerprint
    texts = ["The <extra_id_0> is <extra_id_99> red <extra_id_7>.", "blue", ""]
    for with_sentinels in both:
        assert with_sentinels.size == vocab.size == right.vocab_size
        assert with_sentinels.encode_batch(texts) == [
            right.encode(text) for text in texts
        ]
        for index in (0, 1, 99):
            assert with_sentinels.sentinel_id(index) == vocab.sentinel_id(index)
            assert (
                right.decode([with_sentinels.sentinel_id(index)])
                == f"<extra_id_{index}>"
            )
        with pytest.raises(errors.ConfigError, match="sentinel 100 of .* with 100"):
            with_sentinels.sentinel_id(100)
        assert with_sentinels.seqio() == right
    if start:  # the very ids of the file without sentinels to which 100 are added
        assert both[0].encode_batch(texts) == vocab.encode_batch(texts)


def test_the_fingerprint_of_an_ordinary_file_is_as_it_always_was(vocab):
    content = pathlib.Path(vocab.path).read_bytes()
    assert vocab.num_added == 100
    digest = hashlib.sha256(content + b"\x00100").hexdigest()
    assert vocab.fingerprint == digest[:16]


def test_another_number_of_sentinels_than_the_file_brings_is_refused(
    vocab, bring_sentinels, tmp_path
):
    path = bring_sentinels(tmp_path / "own.model", reversed(range(100)))
    for use in (lambda v: v.fingerprint, lambda v: v.encode("red"), lambda v: v.size):
        with pytest.raises(
            errors.DataError, match="brings 100 sentinels.*\n.*\n.*to 100"
        ):
            use(vocabulary.SentencePiece(path, 50))
    path = bring_sentinels(tmp_path / "gaps.model", [7])
    with pytest.raises(errors.DataError, match="numbered up to 7"):
        vocabulary.SentencePiece(path, 100).encode("red")
    assert vocabulary.SentencePiece(path, 0).encode("red") == vocab.encode("red")


def test_sentinels_counting_upwards_are_refused_where_one_is_asked_for(
    vocab, bring_sentinels, tmp_path
):
    path = bring_sentinels(tmp_path / "up.model", range(100))
    upwards = vocabulary.SentencePiece(path)
    assert upwards.encode("red") == vocab.encode("red")
    with pytest.raises(
        errors.DataError, match="<extra_id_99>' as id .*\n.*<extra_id_0>"
    ):
        upwards.sentinel_id(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b'{"version": "1.0"}', "JSON.*\n.*\n.*spiece.model"),
        (b"<pad>\t0\n</s>\t0\n", "list of pieces"),
        (b"not a model", "is not a SentencePiece model"),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_start(tmp_path, content, message):
    path = tmp_path / "wrong.model"
    path.write_bytes(content)
    with pytest.raises(errors.DataError, match=message):
        vocabulary.SentencePiece(str(path)).encode("a")


def test_a_model_with_a_piece_twice_is_not_called_another_kind_of_file(
    bring_sentinels, tmp_path
):
    path = bring_sentinels(tmp_path / "twice.model", [0, 0])
    with pytest.raises(
        errors.DataError, match="SentencePiece does not take.*twice|defined"
    ):
        vocabulary.SentencePiece(path, 1).encode("a")


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
