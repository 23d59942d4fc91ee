import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from elm_jax import errors
from elm_jax.data import shapes

LENGTHS = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 70)), min_size=1, max_size=60
)


def padded(lengths, chosen):
    assigned = shapes.assign_shapes(lengths, chosen)
    return sum(sum(chosen[index]) for index in assigned)


@hypothesis.given(LENGTHS, st.integers(1, 6))
def test_every_example_fits_a_shape_and_shapes_are_few(lengths, num_shapes):
    lengths = np.array(lengths)
    chosen = shapes.choose_shapes(lengths, num_shapes=num_shapes)
    assert 1 <= len(chosen) <= num_shapes
    room = np.asarray(chosen)[shapes.assign_shapes(lengths, chosen)]
    assert (lengths <= room).all()


@hypothesis.given(LENGTHS)
def test_more_shapes_never_pad_more(lengths):
    lengths = np.array(lengths)
    cells = [
        padded(lengths, shapes.choose_shapes(lengths, num_shapes=n))
        for n in range(1, 7)
    ]
    assert cells == sorted(cells, reverse=True)


@hypothesis.given(LENGTHS, st.integers(1, 6))
def test_lengths_are_multiples_and_the_last_shape_holds_all(lengths, num_shapes):
    lengths = np.array(lengths)
    chosen = shapes.choose_shapes(lengths, num_shapes=num_shapes)
    assert not np.any(np.asarray(chosen) % shapes.MULTIPLE)
    assert (lengths.max(axis=0) <= chosen[-1]).all()


def test_an_example_that_fits_no_shape_is_an_error():
    with pytest.raises(errors.ConfigError, match=r"up to \(9, 3\) tokens"):
        shapes.assign_shapes(np.array([[9, 3]]), [shapes.Lengths(8, 8)])
