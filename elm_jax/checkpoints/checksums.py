"""Checksums of tensors that are computed where the tensors lie.

A state of a training may be spread over the devices of many processes. Its checksum is
a sum of whole numbers, one for each element, so it is the same however the tensors are
placed, and no process needs all of them.
"""

import collections
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_GOLDEN = 0x9E3779B9  # 2 to the 32, over the golden ratio; odd


def of_leaves(leaves: Mapping[str, Any]) -> dict[str, int]:
    """Returns a checksum from 0 to 2 ** 32 - 1 of each array, by name.

    Another value of any one element changes the sum for certain, and other changes do
    so but for a chance of 1 in 2 ** 32.

    Args:
      leaves: Arrays of any dtype, on any devices; all processes call together for
        arrays that they share.
    """
    groups: dict[Any, dict[str, Any]] = collections.defaultdict(dict)
    for name, leaf in leaves.items():
        devices = leaf.sharding.device_set if isinstance(leaf, jax.Array) else ()
        groups[frozenset(devices)][name] = leaf
    sums: dict[str, int] = {}
    for group in groups.values():
        # One program at a time: sums of several processes must not cross.
        group_sums = jax.device_get(_of_group(group))
        sums |= {name: int(value) for name, value in group_sums.items()}
    return {name: sums[name] for name in leaves}


@jax.jit
def _of_group(leaves: dict[str, Any]) -> dict[str, jax.Array]:
    return {name: _of_array(jnp.asarray(leaf)) for name, leaf in leaves.items()}


def _of_array(array: jax.Array) -> jax.Array:
    """Returns the sum over elements of a bijective hash of bits, moved by place."""
    words = _words(array)
    places = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        index = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        places += index * jnp.uint32(stride)
    return jnp.sum(_mixed(words ^ (places * jnp.uint32(_GOLDEN))), dtype=jnp.uint32)


def _words(array: jax.Array) -> jax.Array:
    """Returns the bits of elements as uint32; wider elements give two each."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    bits = min(32, 8 * array.dtype.itemsize)
    return lax.bitcast_convert_type(array, f"uint{bits}").astype(jnp.uint32)


def _mixed(words: jax.Array) -> jax.Array:
    """Returns the last step of MurmurHash3 (Appleby), a bijection of 32 bits."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
