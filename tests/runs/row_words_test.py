"""The words of rows are found once, whoever asks, and never wrongly."""

import threading

import pytest

from elm_jax import errors
from elm_jax.data import token_store
from elm_jax.evaluation import overlap
from elm_jax.runs import row_words
from tests.runs import scored


@pytest.fixture
def dataset(tmp_path):
    with scored.registered():
        data = scored.make_data().opened(
            lambda path: path.replace("{MODEL_DIR}", str(tmp_path))
        )
        yield data.open("plain_ask", "train")


def word_files(tmp_path):
    return [*(tmp_path / "cache/plain_ask").glob(".*.words-*")]


def equal(words, other_words):
    pairs = zip(words.arrays().values(), other_words.arrays().values(), strict=True)
    return all(first.tobytes() == second.tobytes() for first, second in pairs)


def test_words_are_made_once_for_each_content(dataset, tmp_path, monkeypatch):
    words = row_words.of(dataset, str(tmp_path / "cache"))
    (folder,) = word_files(tmp_path)
    assert dataset.fingerprint in folder.name
    monkeypatch.setattr(overlap.Texts, "of", None)
    again = row_words.find(
        str(tmp_path / "cache"), "plain_ask", "train", fingerprint=dataset.fingerprint
    )
    assert equal(words, again)


def test_a_split_that_is_not_here_has_no_words(dataset, tmp_path):
    words = row_words.find(
        str(tmp_path / "cache"), "plain_ask", "train", fingerprint="0" * 16
    )
    assert words is None


@pytest.mark.parametrize("name", ["index.json", token_store.ARRAYS_FILE])
def test_damaged_words_are_made_again(dataset, tmp_path, name):
    words = row_words.of(dataset, str(tmp_path / "cache"))
    (folder,) = word_files(tmp_path)
    path = folder / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    assert equal(row_words.of(dataset, str(tmp_path / "cache")), words)
    assert (folder / name).read_bytes() != content


def test_words_that_cannot_be_kept_are_made_all_the_same(
    dataset, tmp_path, monkeypatch
):
    def refuse(*_):
        raise errors.DataError(found="a full disk", expected="space", do="Free some")

    monkeypatch.setattr(row_words.folders, "new_folder", refuse)
    assert len(row_words.of(dataset, str(tmp_path / "cache"))) == len(dataset)
    assert not word_files(tmp_path)


def test_two_that_make_the_same_words_at_once_leave_one_folder(
    dataset, tmp_path, monkeypatch
):
    both_have_none = threading.Barrier(2)
    make = overlap.Texts.of

    def together(texts):
        both_have_none.wait(timeout=60)
        return make(texts)

    monkeypatch.setattr(overlap.Texts, "of", together)
    both = []
    threads = [
        threading.Thread(
            target=lambda: both.append(row_words.of(dataset, str(tmp_path / "cache")))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    first, second = both
    assert equal(first, second)
    assert len(word_files(tmp_path)) == 1
    monkeypatch.setattr(overlap.Texts, "of", None)
    assert equal(row_words.of(dataset, str(tmp_path / "cache")), first)
