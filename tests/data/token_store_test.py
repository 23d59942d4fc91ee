import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from elm_jax.data import token_store

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


@hypothesis.given(ROWS, ROWS)
def test_ragged_rows_are_what_was_put_in(one, other):
    ragged = token_store.Ragged
    joined = ragged.joined([ragged.of(one), ragged.of(other)])
    found = [joined.row(i).tolist() for i in range(len(joined.lengths))]
    assert found == one + other


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
    found = token_store.map_arrays(tmp_path / "file", index)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert not found["c"].flags.writeable
    (tmp_path / "file").write_bytes(b"\0" * 64)
    with pytest.raises(ValueError, match="ends before"):
        token_store.map_arrays(tmp_path / "file", index)
