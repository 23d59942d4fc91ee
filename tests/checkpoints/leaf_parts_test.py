"""Parts of leaves that are read ahead of who needs them."""

import itertools

import pytest

from elm_jax.checkpoints import leaf_parts


def test_the_next_parts_of_iterators_come_in_their_order_and_none_of_an_ended_one():
    iterators = [iter(range(n, n + 2)) for n in range(20)]
    iterators[7] = iter(())
    expected = [None if n == 7 else n for n in range(20)]
    assert list(leaf_parts.next_of_each(iterators)) == expected
    expected = [None if n == 7 else n + 1 for n in range(20)]
    assert list(leaf_parts.next_of_each(iterators)) == expected
    assert set(leaf_parts.next_of_each(iterators)) == {None}


def test_few_parts_are_asked_for_before_the_first_is_taken():
    asked = []

    def iterators():
        for number in itertools.count():
            asked.append(number)
            yield iter([number])

    parts = leaf_parts.next_of_each(iterators())
    assert next(parts) == 0
    assert len(asked) <= 8
    parts.close()


def test_an_error_of_an_iterator_comes_in_its_place():
    def broken():
        raise OSError("disk")
        yield

    parts = leaf_parts.next_of_each([iter([1]), broken(), iter([2])])
    assert next(parts) == 1
    with pytest.raises(OSError, match="disk"):
        next(parts)
