"""Experts that are merged leaf by leaf, each part when somebody reads it.

A merge of experts on disk is again a mapping of leaves that are not in memory. So it
can be written part by part, or be one of the experts of a further merge.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from elm_jax import errors, trees
from elm_jax.checkpoints import (
    experts,
    leaf_parts,
    manifest,
    tensors,
)
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import (
    aligning,
    averages,
    by_name,
    combining,
    task_arithmetic,
)
from elm_jax.merging.method import MergeMethod
from elm_jax.peft import effects, expert_parts
from elm_jax.runs import bases, merge_sources, merged_places
from elm_jax.runs.merge_sources import Source
from elm_jax.types import LAYERS, Side

PIECE_BYTES = 1 << 26
"""Of a merged leaf at once, unless a layer of it is larger; so parts are stored."""


def can_merge(method: MergeMethod, info: manifest.Manifest) -> bool:
    """Returns whether a method merges experts leaf by leaf.

    Args:
      method: How.
      info: The manifest of one of them.
    """
    if method.unit == "expert" or method.needs_statistics:
        return False
    spec = bases.adapter_spec(info)
    if spec is None or not (method.needs_base or method.knows_adapters):
        return True
    return merged_places.takes(method, spec)


def check_names(method: MergeMethod, leaves: Mapping[str, Any]) -> None:
    """Raises ConfigError for weights by name that fit no name.

    Args:
      method: How experts are merged.
      leaves: What has the shapes of their parameters, by name.
    """
    if isinstance(method, by_name.ByName):
        method.check_names(
            leaves, {n: x.shape[0] for n, x in leaves.items() if x.shape}
        )


def merged(
    method: MergeMethod,
    sources: Sequence[Source],
    base: Mapping[str, Leaf],
) -> dict[str, Leaf]:
    """Returns the leaves that a method makes of experts; reads nothing yet.

    Args:
      method: One of those that `can_merge` takes.
      sources: One or more experts.
      base: Of the experts, for a method that needs it.

    Raises:
      ConfigError: They are not alike, or there are too many or few for the method.
        Leaves raise it when they are read and a result is not finite.
    """
    method.check(len(sources))
    check_names(method, sources[0].leaves)
    every = [trees.unflatten(source.leaves) for source in sources]
    beside: Mapping[str, Side] = {}
    if sources[0].info.adapter and (method.needs_base or method.knows_adapters):
        beside = effects.beside(every[0])
    start: dict[str, Leaf] = {}
    if method.needs_base:
        pattern = sources[0].info.trainable_pattern
        of = f"expert {sources[0].info.name!r}"
        tree = expert_parts.part(trees.unflatten(base), pattern, of=of)
        start = trees.flatten(tree)
        # A base has no adapters: what theirs start from is one that adds nothing.
        for name, array in trees.flatten(effects.neutral(every[0])).items():
            values = functools.partial(np.array, array)
            start[name] = tensors.whole(
                tensors.Tensor(array.shape, array.dtype, values)
            )
    combining.check_alike(every)
    if method.needs_base:
        plain = {n: x for n, x in sources[0].leaves.items() if n not in beside}
        combining.check_alike([trees.unflatten(plain)], trees.unflatten(start))
    leaves = {
        name: _merged_leaf(method, name, sources, start.get(name), beside)
        for name in sources[0].leaves
    }
    if isinstance(method, task_arithmetic.TaskArithmetic):
        return leaves
    marks, experts = [s.mark for s in sources], [s.leaves for s in sources]
    for names in aligning.places(beside, is_linear=False).values():
        place = merged_places.Place(method, names, experts, marks)
        leaves |= {name: place.leaf(name, leaves[name].rows) for name in names}
    return leaves


def peak_bytes(
    method: MergeMethod,
    name: str,
    sources: Sequence[Source],
    start: Leaf | None,
) -> int:
    """Returns the memory that merging one leaf takes at most, without the program's.

    A part of each expert is held as it is read, and once more if the next ones are
    read ahead; parts of the result are held up to four times.
    """
    leaves = [source.leaves[name] for source in sources]
    every = leaves if start is None else [*leaves, start]
    if isinstance(method, averages.RunningMean):
        every = every[:4]  # with those ahead eight: five that are read, and the sum
    rows = _piece_rows(name, leaves[0], splits=method.unit == "value")
    step = _step_rows(method, leaves[0], rows, len(sources))
    held = sum(max(step, x.rows) * leaf_parts.row_bytes(x) for x in every)
    ahead = held if held <= merge_sources.AHEAD_BYTES else 0
    return held + ahead + 4 * step * leaf_parts.row_bytes(leaves[0])


def _merged_leaf(
    method: MergeMethod,
    name: str,
    sources: Sequence[Source],
    start: Leaf | None,
    beside: Mapping[str, Side],
) -> Leaf:
    like = sources[0].leaves[name]
    sides = {name: beside[name]} if name in beside else {}
    for side in sides.values():
        times = merged_places.num_beside(method, len(sources))
        like = merged_places.widened(like, side, times)
    rows = _piece_rows(name, like, splits=method.unit == "value")
    step = _step_rows(method, sources[0].leaves[name], rows, len(sources))
    if isinstance(method, averages.RunningMean):
        parts = functools.partial(_running_means, name, sources, step)
    else:
        parts = functools.partial(_pieces, method, name, sources, start, sides, step)
    made = Leaf(like.shape, like.dtype, step, lambda: leaf_parts.ahead(parts()))
    return made._replace(rows=rows, blocks=lambda: leaf_parts.cut(made, rows))


def _pieces(
    method: MergeMethod,
    name: str,
    sources: Sequence[Source],
    start: Leaf | None,
    beside: Mapping[str, Side],
    rows: int,
) -> Iterator[np.ndarray]:
    leaves, marks = [s.leaves[name] for s in sources], [s.mark for s in sources]
    is_layer = method.unit != "value" and _is_stack(name)
    every = [*leaves] if start is None else [*leaves, start]
    steps = leaf_parts.steps(every, rows)
    held = sum(leaf.rows * leaf_parts.row_bytes(leaf) for leaf in every)
    steps = leaf_parts.ahead(steps) if held <= merge_sources.AHEAD_BYTES else steps
    number = itertools.count()
    for blocks in steps:
        if is_layer:  # a layer has a name of its own, and no leading axis
            for place in range(len(blocks[0])):
                of = name.replace(f"/{LAYERS}/", f"/{LAYERS}_{next(number)}/")
                layer = [block[place] for block in blocks]
                yield _merge_piece(method, of, layer, marks, beside)[None]
        else:
            yield _merge_piece(method, name, blocks, marks, beside)
        del blocks


def _merge_piece(
    method: MergeMethod,
    name: str,
    blocks: Sequence[np.ndarray],
    marks: Sequence[str],
    beside: Mapping[str, Side],
) -> np.ndarray:
    """Returns a part of a merged leaf; the base's block is the last, if there is."""
    given = [trees.unflatten({name: block}) for block in blocks]
    base = {} if method.needs_base else None
    if len(given) > len(marks):
        base = given.pop()
    result = method.merge(given, base=base, beside=beside, marks=marks)
    return np.asarray(trees.flatten(result.params)[name])


def _running_means(
    name: str, sources: Sequence[Source], rows: int
) -> Iterator[np.ndarray]:
    """Yields means of parts, of which a few at a time are in memory."""
    in_order = sorted(sources, key=lambda source: source.mark)
    leaves = [source.leaves[name] for source in in_order]
    parts = [leaf_parts.cut(leaf, rows) for leaf in leaves]
    while True:
        mean, count = combining.RunningMean(), 0
        # At the end each leaf is asked once more: it compares itself then.
        for block in leaf_parts.next_of_each(parts):
            if block is not None:
                mean.add(trees.unflatten({name: block}))
                count += 1
            del block
        if not count:
            return
        if count != len(parts):
            raise errors.CheckpointError(
                found=f"{name} of {len(parts)} experts, of which {count} have"
                " one more part",
                expected="as many parts of each, to be averaged",
                do="Look for an expert whose folder was changed, and save it again",
            )
        yield np.asarray(trees.flatten(mean.mean())[name])


def _piece_rows(name: str, leaf: Leaf, *, splits: bool) -> int:
    """Returns how many rows of a merged leaf are one part.

    Args:
      name: Of the leaf.
      leaf: Its shape and dtype.
      splits: Whether matrices may be cut.
    """
    if not leaf.shape:
        return 1
    row_bytes = leaf_parts.row_bytes(leaf)
    most = max(1, PIECE_BYTES // max(1, row_bytes))
    if _is_stack(name):
        most = most if splits and row_bytes < experts.LAYER_BYTES else 1
    elif not splits:
        most = leaf.shape[0]
    return max(1, min(most, leaf.shape[0]))


def _step_rows(method: MergeMethod, leaf: Leaf, rows: int, num_experts: int) -> int:
    """Returns how many rows are read and merged at once, a multiple of `rows`."""
    if not leaf.shape:
        return 1
    piece_bytes = max(1, rows * leaf_parts.row_bytes(leaf))
    times = merge_sources.part_bytes(method, num_experts) // piece_bytes
    return max(rows, min(times * rows, leaf.shape[0]))


def _is_stack(name: str) -> bool:
    return f"/{LAYERS}/" in name
