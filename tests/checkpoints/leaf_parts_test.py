"""Parts of leaves that are read ahead of who needs them."""

import itertools
import weakref

import numpy as np
import pytest

from elm_jax.checkpoints import leaf_parts, tensors


def test_the_next_parts_of_iterators_come_in_their_order_and_none_of_an_ended_one():
    iterators = [iter(range(n, n + 2)) for n in range(20)]
    iterators[7] = iter(())
    expected = [None if n == 7 else n for n in range(20)]
    assert list(leaf_parts.next_of_each(iterators)) == expected
    expected = [None if n == 7 else n + 1 for n in range(20)]
    assert list(leaf_parts.next_of_each(iterators)) == expected
    assert set(leaf_parts.next_of_each(iterators)) == {None}


def test_few_parts_are_asked_for_before_the_first_is_taken():
    requested = []

    def iterators():
        for number in itertools.count():
            requested.append(number)
            yield iter([number])

    parts = leaf_parts.next_of_each(iterators())
    assert next(parts) == 0
    assert len(requested) <= 8
    parts.close()


def test_an_error_of_an_iterator_comes_in_its_place():
    def broken():
        raise OSError("disk")
        yield

    parts = leaf_parts.next_of_each([iter([1]), broken(), iter([2])])
    assert next(parts) == 1
    with pytest.raises(OSError, match="disk"):
        next(parts)


@pytest.mark.parametrize("part_rows", [1, 2, 3, 5, 20, 21])
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 21])
def test_a_leaf_that_is_cut_holds_no_more_of_its_parts_than_is_told(part_rows, rows):
    in_memory, most = 0, 0

    def gone(count):
        nonlocal in_memory
        in_memory -= count

    def blocks():
        nonlocal in_memory, most
        for start in range(0, 21, part_rows):
            block = np.arange(start, min(start + part_rows, 21)).reshape(-1, 1)
            weakref.finalize(block, gone, len(block))
            in_memory += len(block)
            most = max(most, in_memory)
            yield block
            del block

    leaf = tensors.Leaf((21, 1), np.dtype(int), part_rows, blocks)
    parts = []
    for part in leaf_parts.cut(leaf, rows):
        parts.append(part.copy())
        del part
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0], np.arange(21))
    assert {len(part) for part in parts[:-1]} <= {rows}
    # One more of the leaf's own parts is read before the last one is taken away.
    assert most <= leaf_parts.held_rows(leaf, rows) + part_rows


def test_a_leaf_without_rows_has_no_parts():
    empty = np.empty((0, 3))
    leaf = tensors.Leaf((0, 3), empty.dtype, 0, lambda: iter([empty]))
    assert [*leaf_parts.cut(leaf, 4)] == []
    assert leaf_parts.held_rows(leaf, 4) == 4
