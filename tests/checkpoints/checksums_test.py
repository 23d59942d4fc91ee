import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from elm_jax.checkpoints import checksums

DTYPES = [
    *("float32", "int32", "uint8", "bool", "float16", "uint32"),
    ml_dtypes.bfloat16,
]


def reference(array):
    """The same sum, an element at a time in Python's whole numbers."""
    bits = np.ascontiguousarray(array).reshape(-1)
    total = 0
    for place, value in enumerate(bits.view(f"u{bits.dtype.itemsize}").tolist()):
        word = value ^ (place * 0x9E3779B9 % 2**32)
        word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
        word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
        total += word ^ word >> 16
    return total % 2**32


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_sum_over_mixed_elements(shape, dtype):
    array = np.asarray(np.random.default_rng(0).integers(0, 99, shape)).astype(dtype)
    assert checksums.of_leaves({"a": array}) == {"a": reference(array)}


def test_every_flipped_bit_changes_it():
    array = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    whole = checksums.of_leaves({"a": array})
    for place in range(array.nbytes * 8):
        damaged = array.copy()
        damaged.reshape(-1).view(np.uint8)[place // 8] ^= 1 << place % 8
        assert checksums.of_leaves({"a": damaged}) != whole


def test_values_in_another_order_change_it():
    array = np.arange(12, dtype=np.float32)
    sums = checksums.of_leaves({"a": array, "b": array[::-1], "c": array})
    assert sums["a"] == sums["c"] != sums["b"]


def test_it_is_the_same_over_several_devices():
    mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
    array = jnp.arange(64, dtype=jnp.bfloat16).reshape(8, 8)
    for spec in (("a", "b"), (None, "b"), (("a", "b"),)):
        place = jax.NamedSharding(mesh, jax.P(*spec))
        sharded = jax.device_put(array, place)
        assert checksums.of_leaves({"a": sharded}) == checksums.of_leaves({"a": array})
