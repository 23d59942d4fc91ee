"""Parameter trees by name: flatten, split, join, diff, count, fingerprint."""

import hashlib
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from elm_jax.types import Params


def flatten(tree: Params) -> dict[str, Any]:
    """Returns the leaves of `tree` by `/`-joined name, in sorted order.

    >>> flatten({"b": {"c": 2}, "a": 1})
    {'a': 1, 'b/c': 2}
    """
    return dict(sorted(_leaves("", tree), key=operator.itemgetter(0)))


def _leaves(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
    # No function in `flatten` that calls itself: that is a cycle, which keeps all
    # leaves in memory until Python looks for such.
    if not isinstance(node, Mapping):
        yield prefix, node
        return
    for key, child in node.items():
        yield from _leaves(f"{prefix}/{key}" if prefix else str(key), child)


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested tree of named leaves; the inverse of `flatten`.

    >>> unflatten({"a": 1, "b/c": 2})
    {'a': 1, 'b': {'c': 2}}

    Raises:
      ValueError: One name is a prefix of another.
    """
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r} lies below another leaf")
        if last in node:
            raise ValueError(f"{name!r} is given twice, or lies above another leaf")
        node[last] = leaf
    return tree


def split(tree: Params, pattern: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the part of `tree` whose names match, and the rest.

    `join` is the inverse: `join(*split(tree, pattern)) == tree`.

    Args:
      tree: Nested mapping of leaves.
      pattern: Regular expression, searched in the `/`-joined names.

    >>> split({"norm": {"scale": 1}, "wi": 2}, "norm/")
    ({'norm': {'scale': 1}}, {'wi': 2})
    """
    return select(tree, filter(re.compile(pattern).search, flatten(tree)))


def select(tree: Params, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the leaves of `tree` with these names, and all other leaves.

    >>> select({"norm": {"scale": 1}, "wi": 2}, ["norm/scale"])
    ({'norm': {'scale': 1}}, {'wi': 2})
    """
    chosen = frozenset(names)
    leaves = flatten(tree)
    selected = {name: leaf for name, leaf in leaves.items() if name in chosen}
    rest = {name: leaf for name, leaf in leaves.items() if name not in chosen}
    return unflatten(selected), unflatten(rest)


def join(first: Params, second: Params) -> dict[str, Any]:
    """Returns one tree with the leaves of both; the inverse of `split`.

    Raises:
      ValueError: A leaf is in both trees.
    """
    first_leaves, second_leaves = flatten(first), flatten(second)
    shared_names = sorted(first_leaves.keys() & second_leaves.keys())
    if shared_names:
        raise ValueError(f"leaves are in both trees: {', '.join(shared_names)}")
    return unflatten(dict(sorted((first_leaves | second_leaves).items())))


def replace(tree: Params, part: Params) -> dict[str, Any]:
    """Returns `tree` with the leaves of `part` added, or put in place of its own.

    An expert `part` put on a base `tree` gives the expert's whole model.
    """
    return unflatten(dict(sorted((flatten(tree) | flatten(part)).items())))


def as_float32(tree: Params) -> dict[str, Any]:
    """Returns the tree with every array in float32; those that are stay the same."""
    return unflatten({n: np.asarray(a, np.float32) for n, a in flatten(tree).items()})


class TreeDiff(NamedTuple):
    """How the leaves of a tree differ from the expected ones, by name."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshapen: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.misshapen)

    def __str__(self) -> str:
        kinds = zip(self._fields, self, strict=True)
        return "; ".join(
            f"{kind}: {', '.join(names)}" for kind, names in kinds if names
        )


def diff(actual: Params, expected: Params) -> TreeDiff:
    """Returns what is missing, extra or of another shape in `actual`, all at once.

    Leaves need a `shape`; dtypes are not compared.
    """
    have, want = flatten(actual), flatten(expected)
    wrong = [
        f"{name} {tuple(have[name].shape)} instead of {tuple(want[name].shape)}"
        for name in sorted(have.keys() & want.keys())
        if tuple(have[name].shape) != tuple(want[name].shape)
    ]
    return TreeDiff(
        missing=tuple(sorted(want.keys() - have.keys())),
        extra=tuple(sorted(have.keys() - want.keys())),
        misshapen=tuple(wrong),
    )


def count_params(tree: Params) -> int:
    """Returns the number of scalars in the tree; leaves need only a `shape`."""
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def count_bytes(tree: Params) -> int:
    """Returns the bytes of the tree's arrays; leaves need `shape` and `dtype`."""
    return sum(
        int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in flatten(tree).values()
    )


def fingerprint(tree: Params) -> str:
    """Returns a content hash of names, shapes, dtypes and values: 16 hex digits.

    Equal trees have equal fingerprints on every machine; one changed bit in one
    leaf changes it.
    """
    digest = Fingerprint()
    for name, leaf in flatten(tree).items():
        array = np.asarray(leaf)
        digest.start(name, array.shape, array.dtype)
        digest.add(array)
    return digest.text


class Fingerprint:
    """Computes `fingerprint` of a tree whose leaves come one by one, in parts.

    `start` each leaf in sorted order of names, then `add` it, or its parts along axis
    0 one after another.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def start(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Begins a leaf."""
        self._digest.update(f"{name}\0{tuple(shape)}\0{dtype.name}\0".encode())

    def add(self, array: np.ndarray) -> None:
        """Adds values of the leaf that was started last."""
        self._digest.update(np.ascontiguousarray(array).view(np.uint8).data)

    @property
    def text(self) -> str:
        """The fingerprint of all that was added."""
        return self._digest.hexdigest()[:16]
