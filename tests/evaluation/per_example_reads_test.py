"""Values of many rows are those of each by itself, and no damage is missed."""

from unittest import mock

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.evaluation import (
    per_example_files,
    per_example_reads,
    result_store,
    row_columns,
)
from tests.evaluation import made_rows

IDS = np.arange(5)
ONLY = ("example_ids", "accuracy")


def record(store, number, arrays=None):
    arrays = arrays or {
        "example_ids": IDS + number,
        "scores": np.arange(10, dtype=np.float32),
        "accuracy": np.array([0, 100, 50, 100, number], np.float32),
    }
    store.record(
        made_rows.cell(expert=f"e{number}"),
        run_id="r",
        values={"accuracy": 62.5, "chance": 50.0},
        num_examples=5,
        per_example=arrays,
    )


@pytest.fixture
def store(tmp_path):
    """A store of four experts, whose third one has other arrays than the rest."""
    filled = result_store.ResultStore(tmp_path / "rows.jsonl")
    for number in range(4):
        ints = {"example_ids": IDS, "accuracy": IDS * 20}
        record(filled, number, ints if number == 2 else None)
    return filled


def assert_same(read, expected_arrays):
    assert len(read) == len(expected_arrays)
    for arrays, expected in zip(read, expected_arrays, strict=True):
        assert {*arrays} == {*expected}
        for name, array in expected.items():
            assert arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(arrays[name], array, strict=True)


@pytest.mark.parametrize("only", [ONLY, ("example_ids",), ("accuracy", "chance")])
def test_many_rows_have_the_arrays_of_each(store, only):
    rows = store.rows()
    rows = row_columns.joined([rows, rows.take(np.array([5, 0]))])
    expected = [store.per_example(row, only=only) for row in rows]
    assert_same([*store.per_examples(rows, only=only)], expected)
    with mock.patch.object(per_example_reads, "_MOST_BYTES", 3000):
        assert_same([*store.per_examples(rows, only=only)], expected)


def test_rows_of_one_file_are_decoded_together(store):
    rows = store.rows().where(metric="accuracy").take(np.array([0, 1, 3]))
    with mock.patch.object(per_example_files, "read", side_effect=AssertionError):
        read = [*store.per_examples(rows, only=ONLY)]
    assert [int(arrays["accuracy"][-1]) for arrays in read] == [0, 1, 3]


def test_texts_are_read_too(tmp_path):
    filled = result_store.ResultStore(tmp_path / "rows.jsonl")
    for number in range(2):
        offsets = np.array([0, 1, 3])
        texts = {"texts.values": np.arange(65, 68, dtype=np.uint8)}
        record(filled, number, {"example_ids": IDS, **texts, "texts.offsets": offsets})
    only = ("example_ids", "texts.values")
    expected = [filled.per_example(row, only=only) for row in filled.rows()]
    assert_same([*filled.per_examples(filled.rows(), only=only)], expected)


def test_no_changed_byte_of_a_record_is_missed(store):
    rows = store.rows().where(metric="accuracy").take(np.array([0, 1]))
    path = store.path.parent / f"{rows[0].per_example_path}"
    whole = path.read_bytes()
    end = rows[1].per_example_offset + rows[1].per_example_length
    for place in range(0, end, 37):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :]
        )
        with pytest.raises(errors.DataError, match="altered"):
            [*store.per_examples(rows, only=ONLY)]
    path.write_bytes(whole[: end - 1])
    with pytest.raises(errors.DataError, match="e1 on quail_y"):
        [*store.per_examples(rows, only=ONLY)]
    path.unlink()
    with pytest.raises(errors.DataError, match="missing"):
        [*store.per_examples(rows, only=ONLY)]


@pytest.mark.parametrize(
    "changes",
    [
        {"per_example_sha256": "0" * 64},
        {"per_example_offset": 2**62},
        {"per_example_length": -1},
        {"per_example_path": "per_example"},
        {"per_example_path": None},
    ],
    ids=str,
)
def test_rows_that_name_another_place_or_hash_are_refused(store, changes):
    rows = store.rows().where(metric="accuracy").take(np.array([0, 1]))
    (name, value), *_ = changes.items()
    field = row_columns.Coded.of([getattr(rows[0], name), value])
    with pytest.raises(errors.DataError, match="e1 on quail_y"):
        [*store.per_examples(rows.replaced(**{name: field}), only=ONLY)]
