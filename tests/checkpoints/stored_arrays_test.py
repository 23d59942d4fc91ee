"""Tensors on disk are given to NumPy as they were saved, a part at a time."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from elm_jax.checkpoints import stored_arrays, tensors

ROWS, WIDTH = 64, 4096
DTYPES = ("float32", ml_dtypes.bfloat16)


def in_parts(array, rows):
    """Returns an array of which each part is made when it is asked for."""

    def blocks():
        for start in range(0, len(array), rows):
            yield array[start : start + rows].copy()

    return stored_arrays.StoredArray(
        tensors.Leaf(array.shape, array.dtype, rows, blocks)
    )


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("requested", [None, *DTYPES])
@pytest.mark.parametrize("rows", [1, 5, ROWS])
def test_values_are_those_that_numpy_casts(stored, requested, rows):
    array = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(stored)
    cast = np.asarray(in_parts(array, rows), requested)
    expected = array if requested is None else array.astype(requested)
    assert cast.dtype == expected.dtype
    np.testing.assert_array_equal(cast, expected)


def test_shape_and_size_are_known_without_reading():
    def refuse():
        raise AssertionError("was read")

    dtype = np.dtype(ml_dtypes.bfloat16)
    array = stored_arrays.StoredArray(tensors.Leaf((2, 3), dtype, 1, refuse))
    assert (array.shape, array.ndim, array.size, array.nbytes) == ((2, 3), 2, 6, 12)
    assert repr(array) == "<bfloat16[2, 3] on disk>"
    with pytest.raises(AssertionError, match="was read"):
        np.asarray(array)


def test_a_scalar_is_read_like_any_other():
    array = np.asarray(2.5, np.float32)
    leaf = tensors.whole(tensors.Tensor((), array.dtype, lambda: array))
    assert np.asarray(stored_arrays.StoredArray(leaf), np.float64) == 2.5


def test_reading_takes_the_result_and_little_more():
    array = np.ones((ROWS, WIDTH), np.float32)
    stored = in_parts(array, rows=1)
    tracemalloc.start()
    read = np.asarray(stored, ml_dtypes.bfloat16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read.nbytes == array.nbytes // 2
    assert read.nbytes <= peak < 1.1 * read.nbytes
