"""Named-tree operations keep their laws."""

import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elm_jax import trees

names = st.text("abc", min_size=1, max_size=3)
nested = st.recursive(
    st.integers(), lambda child: st.dictionaries(names, child, min_size=1), max_leaves=9
)
some_trees = st.dictionaries(names, nested, min_size=1)


@pytest.mark.slow
@given(some_trees)
def test_unflatten_is_the_inverse_of_flatten(tree):
    assert trees.unflatten(trees.flatten(tree)) == tree


@pytest.mark.slow
@given(some_trees, st.sampled_from(["a", "b/", "^c", "$^"]))
def test_join_is_the_inverse_of_split(tree, pattern):
    assert trees.join(*trees.split(tree, pattern)) == tree


def test_join_refuses_a_leaf_of_both():
    with pytest.raises(ValueError, match="in both trees: a/b"):
        trees.join({"a": {"b": 1}}, {"a": {"b": 2}})


def test_unflatten_refuses_a_leaf_above_another():
    with pytest.raises(ValueError, match="a/b"):
        trees.unflatten({"a": 1, "a/b": 2})


def test_replace_adds_and_overrides():
    assert trees.replace({"a": 1, "b": 2}, {"b": 3, "c": 4}) == {"a": 1, "b": 3, "c": 4}


def test_diff_names_everything_at_once():
    actual = {"a": np.zeros(2), "b": np.zeros(3)}
    expected = {"b": np.zeros(4), "c": np.zeros(1)}
    assert str(trees.diff(actual, expected)) == (
        "missing: c; extra: a; misshapen: b (3,) instead of (4,)"
    )
    assert not trees.diff(actual, actual)


def test_fingerprint_sees_one_bit_and_the_dtype():
    tree = {"a": np.arange(4, dtype=np.float32), "b": np.float32(1)}
    same = {"b": jnp.float32(1), "a": jnp.arange(4, dtype=jnp.float32)}
    assert trees.fingerprint(tree) == trees.fingerprint(same)
    changed = tree | {"a": np.nextafter(tree["a"], np.float32(9))}
    assert trees.fingerprint(tree) != trees.fingerprint(changed)
    wider = tree | {"a": tree["a"].astype(np.float64)}
    assert trees.fingerprint(tree) != trees.fingerprint(wider)


def test_counts_need_shapes_only():
    tree = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((), jnp.bfloat16)}
    assert trees.count_params(tree) == 7
    assert trees.count_bytes(tree) == 26


def test_leaves_are_gone_as_soon_as_nobody_has_them():
    """Python looks for cycles only now and then, perhaps gigabytes later."""
    leaf = np.zeros(3)
    gone = weakref.ref(leaf)
    is_on = gc.isenabled()
    gc.disable()
    try:
        assert trees.flatten({"a": {"b": leaf}}).keys() == {"a/b"}
        assert trees.count_params({"a": {"b": leaf}}) == leaf.size
        del leaf
        assert gone() is None
    finally:
        if is_on:
            gc.enable()
