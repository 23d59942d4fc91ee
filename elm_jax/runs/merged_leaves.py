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
    deltas,
    layers,
    measured,
    task_arithmetic,
)
from elm_jax.merging.method import Layout, MergeMethod
from elm_jax.peft import effects, expert_parts
from elm_jax.runs import merge_sizes, merge_sources, merged_places
from elm_jax.runs.merge_sources import Source
from elm_jax.types import LAYERS, Side


def can_merge(method: MergeMethod, info: manifest.Manifest) -> bool:
    """Returns whether a method merges experts leaf by leaf.

    Args:
      method: The merge method.
      info: The manifest of one of them.
    """
    if method.unit == "expert":
        return False
    return not (info.adapter and knows_adapters(method)) or merged_places.takes(method)


def knows_adapters(method: MergeMethod) -> bool:
    """Returns whether a method merges adapters as such, not their numbers alone."""
    return method.needs_base or method.knows_adapters


def layout(method: MergeMethod, sources: Sequence[Source]) -> Layout:
    """Returns how adapters will lie in the merge of experts."""
    if not (sources[0].info.adapter and knows_adapters(method)):
        return Layout()
    rank = deltas.rank_of(sources[0].leaves, sides(method, sources))
    return method.layout(len(sources), rank)


def sides(method: MergeMethod, sources: Sequence[Source]) -> dict[str, Side]:
    """Returns the parameters that a method merges as parts of adapters, by name."""
    if not (sources[0].info.adapter and knows_adapters(method)):
        return {}
    return effects.beside(trees.unflatten(sources[0].leaves))


def likes(method: MergeMethod, sources: Sequence[Source]) -> dict[str, Leaf]:
    """Returns leaves with the names and shapes of a merge, without values.

    Args:
      method: How experts are merged.
      sources: The experts.
    """
    beside, lies = sides(method, sources), layout(method, sources)
    return {
        name: leaf._replace(shape=layers.widened(leaf.shape, beside.get(name), lies))
        for name, leaf in sources[0].leaves.items()
    }


def check_names(method: MergeMethod, leaves: Mapping[str, Any]) -> None:
    """Raises ConfigError for weights by name that fit no name.

    Args:
      method: How experts are merged.
      leaves: What has the shapes of their parameters, by name.
    """
    if isinstance(method, by_name.ByName):
        num_layers = {n: x.shape[0] for n, x in leaves.items() if x.shape}
        beside = {}
        if knows_adapters(method):
            beside = effects.beside(trees.unflatten(leaves))
        method.check_names(leaves, num_layers, beside)


def merged(
    method: MergeMethod,
    sources: Sequence[Source],
    base: Mapping[str, Leaf],
    statistics: Sequence[Mapping[str, Leaf]] = (),
    facts: dict[str, float] | None = None,
) -> dict[str, Leaf]:
    """Returns the leaves that a method makes of experts; reads nothing yet.

    Args:
      method: One of those that `can_merge` takes.
      sources: One or more experts.
      base: Of the experts, for a method that needs it.
      statistics: What was measured with each, for a method that needs it.
      facts: Takes what the method tells of the merge, when the leaves are read.

    Raises:
      ConfigError: They are not alike, or there are too many or few for the method.
        Leaves raise it when they are read and a result is not finite.
    """
    method.check(len(sources))
    check_names(method, sources[0].leaves)
    beside = sides(method, sources)
    combining.check_alike([trees.unflatten(source.leaves) for source in sources])
    start = start_of(sources[0], base, beside) if method.needs_base else {}
    measured.check_names(sources[0].leaves, statistics, method.name)
    leaves = {
        name: _merged_leaf(
            method, name, like, sources, start.get(name), beside, statistics
        )
        for name, like in likes(method, sources).items()
    }
    if isinstance(method, task_arithmetic.TaskArithmetic):
        return leaves
    marks, experts = [s.mark for s in sources], [s.leaves for s in sources]
    merge_facts = {} if facts is None else facts
    for is_linear in (False, True):
        for names in aligning.places(beside, is_linear=is_linear).values():
            place_leaves = {name: leaves[name] for name in names}
            place = merged_places.Place(
                method, place_leaves, experts, marks, statistics, merge_facts
            )
            leaves |= {name: place.leaf(name, leaves[name].rows) for name in names}
    return leaves


def start_of(
    source: Source, base: Mapping[str, Leaf], beside: Mapping[str, Side]
) -> dict[str, Leaf]:
    """Returns the start values of leaves: the base's, and of neutral adapters.

    A base has no adapters: what theirs start from is one that adds nothing.

    Raises:
      ConfigError: The base has not the leaves that it must have.
    """
    subject, pattern = f"expert {source.info.name!r}", source.info.trainable_pattern
    start = trees.flatten(expert_parts.part(trees.unflatten(base), pattern, of=subject))
    neutral = effects.neutral(trees.unflatten(source.leaves))
    for name, array in trees.flatten(neutral).items():
        values = functools.partial(np.array, array)
        start[name] = tensors.whole(tensors.Tensor(array.shape, array.dtype, values))
    plain = {n: x for n, x in source.leaves.items() if n not in beside}
    combining.check_alike([trees.unflatten(plain)], trees.unflatten(start))
    return start


def _merged_leaf(
    method: MergeMethod,
    name: str,
    like: Leaf,
    sources: Sequence[Source],
    start: Leaf | None,
    beside: Mapping[str, Side],
    statistics: Sequence[Mapping[str, Leaf]],
) -> Leaf:
    of_adapter = {name: beside[name]} if name in beside else {}
    rows = merge_sizes.piece_rows(name, like, splits=method.unit == "value")
    step = merge_sizes.step_rows(method, sources[0].leaves[name], rows, len(sources))
    if isinstance(method, averages.RunningMean):
        parts = functools.partial(_running_means, name, sources, step)
    else:
        leaf_statistics = [leaves[name] for leaves in statistics if name in leaves]
        parts = functools.partial(
            _pieces, method, name, sources, start, of_adapter, leaf_statistics, step
        )
    whole = Leaf(like.shape, like.dtype, step, lambda: leaf_parts.ahead(parts()))
    return whole._replace(rows=rows, blocks=lambda: leaf_parts.cut(whole, rows))


def _pieces(
    method: MergeMethod,
    name: str,
    sources: Sequence[Source],
    start: Leaf | None,
    beside: Mapping[str, Side],
    statistics: Sequence[Leaf],
    rows: int,
) -> Iterator[np.ndarray]:
    leaves, marks = [s.leaves[name] for s in sources], [s.mark for s in sources]
    is_layer = method.unit != "value" and merge_sizes.is_stack(name)
    every = [*leaves, *([] if start is None else [start]), *statistics]
    has_base = start is not None
    steps = leaf_parts.steps(every, rows)
    held = sum(
        leaf_parts.held_rows(leaf, rows) * leaf_parts.row_bytes(leaf) for leaf in every
    )
    steps = leaf_parts.ahead(steps) if held <= merge_sources.AHEAD_BYTES else steps
    number = itertools.count()
    for blocks in steps:
        if is_layer:  # a layer has a name of its own, and no leading axis
            for place in range(len(blocks[0])):
                unit = name.replace(f"/{LAYERS}/", f"/{LAYERS}_{next(number)}/")
                layer = [block[place] for block in blocks]
                yield _merge_piece(method, unit, layer, marks, beside, has_base)[None]
        else:
            yield _merge_piece(method, name, blocks, marks, beside, has_base)
        del blocks


def _merge_piece(
    method: MergeMethod,
    name: str,
    blocks: Sequence[np.ndarray],
    marks: Sequence[str],
    beside: Mapping[str, Side],
    has_base: bool,
) -> np.ndarray:
    """Returns a part of a merged leaf.

    Args:
      method: The merge method.
      name: Of the leaf, or of a layer of it.
      blocks: Of the experts; of the base, if `has_base`; and what was measured with
        each expert, if anything was.
      marks: Of the experts.
      beside: Holds the leaf if it is of adapters.
      has_base: Whether the base has the leaf.
    """
    count = len(marks)
    trees_of_blocks = [trees.unflatten({name: block}) for block in blocks]
    experts, rest = trees_of_blocks[:count], trees_of_blocks[count:]
    base = {} if method.needs_base else None
    if has_base:
        base, *rest = rest
    statistics: list[Any] = rest or [{}] * (count if method.needs_statistics else 0)
    result = method.merge(
        experts, base=base, beside=beside, marks=marks, statistics=statistics
    )
    return np.asarray(trees.flatten(result.params)[name])


def _running_means(
    name: str, sources: Sequence[Source], rows: int
) -> Iterator[np.ndarray]:
    """Yields means of parts, of which a few at a time are in memory.

    Parts of experts that are cut, such as the whole tensors of releases up to 0.1, stay
    until the next is asked for: `leaf_parts.cut` keeps them.
    """
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
