"""Arrays on disk are read in parts, side by side, and compared as they are read."""

import contextlib
import os
import resource
import tracemalloc

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.disk import sealed_arrays

RECIPE = {"what": "numbers"}
ARRAYS = {
    "a/kernel": np.arange(60, dtype=np.float32).reshape(5, 3, 4),
    "a/bias": np.arange(7, dtype=np.float64),
    "ä": np.arange(6, dtype=np.int32),
    "none": np.zeros((0, 3), np.float32),
    "scalar": np.array(2.5, np.float32),
}


@pytest.fixture
def folder(tmp_path):
    path = sealed_arrays.folder_of(tmp_path, "some", RECIPE)
    sealed_arrays.write(path, ARRAYS, RECIPE)
    return path


@contextlib.contextmanager
def files_at_most(number):
    """Lets this process open so many files more."""
    _, most = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + number, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_parts_joined_are_what_was_written(folder, rows):
    opened = sealed_arrays.opened(folder, RECIPE)
    assert {*opened} == {*ARRAYS}
    for name, array in ARRAYS.items():
        assert (opened[name].shape, opened[name].dtype) == (array.shape, array.dtype)
        parts = list(opened[name].parts(rows))
        if not array.shape or not len(array):
            assert [part.tolist() for part in parts] == [array.tolist()][: array.size]
            continue
        assert {len(part) for part in parts[:-1]} <= {rows}
        np.testing.assert_array_equal(np.concatenate(parts), array)


def test_hundreds_of_arrays_are_read_side_by_side_with_a_few_open_files(folder):
    opened = sealed_arrays.opened(folder, RECIPE)["a/kernel"]
    with files_at_most(3):
        waiting = [opened.parts(1) for _ in range(300)]
        for row in ARRAYS["a/kernel"]:
            for parts in waiting:
                np.testing.assert_array_equal(next(parts)[0], row)
        assert all(next(parts, None) is None for parts in waiting)


def test_parts_that_a_reader_has_done_with_are_not_kept(tmp_path):
    """Of eight parts of a million bytes each, less than one is left."""
    arrays = {"a": np.zeros((2, 250_000), np.float32)}
    sealed_arrays.write(tmp_path / "arrays", arrays, RECIPE)
    opened = sealed_arrays.opened(tmp_path / "arrays", RECIPE)["a"]
    waiting = [opened.parts(1) for _ in range(8)]
    tracemalloc.start()
    try:
        assert sum(next(parts).nbytes for parts in waiting) == 8_000_000
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_what_the_system_refuses_is_not_called_damaged(folder):
    opened = sealed_arrays.opened(folder, RECIPE)["a/kernel"]
    for act in (
        lambda: sealed_arrays.opened(folder, RECIPE),
        lambda: next(opened.parts(1)),
    ):
        with (
            files_at_most(0),
            pytest.raises(errors.DataError, match="Too many") as caught,
        ):
            act()
        assert "Remove" not in f"{caught.value}"


@pytest.mark.parametrize("name", ["a/kernel", "a/bias"])
def test_numbers_and_heads_that_change_after_opening_are_found(folder, name):
    array = sealed_arrays.opened(folder, RECIPE)[name]
    path = folder / "arrays.npz"
    content = path.read_bytes()
    start = content.index(ARRAYS[name].tobytes())
    for place in (start - 1, start, start + ARRAYS[name].nbytes - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(errors.DataError, match="(?s)another checksum.*Remove"):
            list(array.parts(2))
    path.write_bytes(content[: start + 4])
    with pytest.raises(errors.DataError, match="(?s)ends early.*Remove"):
        list(array.parts(100))
    path.unlink()
    with pytest.raises(errors.DataError, match="Remove this folder"):
        list(array.parts(1))
