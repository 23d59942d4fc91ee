import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from elm_jax.data import token_store

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


@hypothesis.given(ROWS, ROWS)
def test_ragged_rows_are_what_was_put_in(first, second):
    ragged = token_store.Ragged
    joined = ragged.joined([ragged.of(first), ragged.of(second)])
    rows = [joined.row(i).tolist() for i in range(len(joined.lengths))]
    assert rows == first + second


@hypothesis.given(st.lists(st.text(), max_size=6))
def test_texts_survive(texts):
    ragged = token_store.Ragged.of_texts(texts)
    assert [ragged.text(i) for i in range(len(texts))] == texts


def test_mapped_arrays_are_what_was_written(tmp_path):
    arrays = {
        "a": np.arange(5, dtype=np.int32),
        "b": np.zeros((0,), np.uint8),
        "c": np.arange(6, dtype=np.int64).reshape(2, 3),
    }
    index = token_store.write_arrays(tmp_path / "file", arrays)
    mapped = token_store.map_arrays(tmp_path / "file", index)
    for name, array in arrays.items():
        np.testing.assert_array_equal(mapped[name], array)
        assert mapped[name].dtype == array.dtype
    assert not mapped["c"].flags.writeable
    (tmp_path / "file").write_bytes(b"\0" * 64)
    with pytest.raises(ValueError, match="ends before"):
        token_store.map_arrays(tmp_path / "file", index)


def test_one_flipped_bit_is_told_by_the_array(tmp_path):
    arrays = {"a": np.arange(500, dtype=np.int32), "b": np.arange(3, dtype=np.uint8)}
    path = tmp_path / "file"
    index = token_store.write_arrays(path, arrays)
    content = path.read_bytes()
    for name, place in (("a", 0), ("a", 1999), ("b", index["b"][2] + 2)):
        token_store.map_arrays(path, index)
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]
        )
        with pytest.raises(ValueError, match=f"other {name} than were written"):
            token_store.map_arrays(path, index)
        path.write_bytes(content)


def test_a_file_is_hashed_once_for_as_long_as_it_stays(tmp_path):
    index = token_store.write_arrays(tmp_path / "file", {"a": np.arange(9)})
    token_store._check.cache_clear()
    for _ in range(3):
        token_store.map_arrays(tmp_path / "file", index)
    assert token_store._check.cache_info().misses == 1
