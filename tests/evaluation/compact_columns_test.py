"""Answers take little memory and are the same numbers."""

import numpy as np
import pytest

from elm_jax.evaluation import compact_columns


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0, 100, 100], np.float32), np.uint8),
        (np.array([0.0, 255.0]), np.uint8),
        (np.array([0.0, 256.0]), np.float64),
        (np.array([100, 100 / 3], np.float32), np.float32),
        (np.array([-1.0, 0.0]), np.float64),
        (np.array([np.nan, 0.0]), np.float64),
        (np.array([]), np.uint8),
    ],
)
def test_scores_are_kept_in_the_smallest_type_that_holds_them(values, dtype):
    compacted = compact_columns.compact(values)
    assert compacted.dtype == dtype
    ids = np.arange(len(values))
    columns = compact_columns.CompactColumns(
        {("d", "t"): compact_columns.Kept(ids, compacted)}
    )
    column = columns["d", "t"]
    assert column.values.dtype == np.float64
    np.testing.assert_array_equal(column.values, values.astype(np.float64))
    assert compact_columns.ids_of(columns, ("d", "t")) is ids
    assert ("d", "t") in columns
    assert [*columns] == [("d", "t")]
