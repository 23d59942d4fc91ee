"""The memory that a merge takes, by the sizes of what is held: bounds, not measured."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import leaf_parts
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import (
    aligning,
    averages,
    by_name,
    closed_form,
    deltas,
    singular,
    spectral,
    task_arithmetic,
)
from elm_jax.merging.method import MergeMethod
from elm_jax.model import reads
from elm_jax.peft import effects
from elm_jax.runs import (
    measured_sums,
    merge_sizes,
    merge_sources,
    merged_cores,
    merged_leaves,
    merged_places,
)
from elm_jax.runs.merge_sources import Source
from elm_jax.types import LAYERS, Side

_COPIES = 3  # of a layer of each expert: one in an order of its own, one in float64
_SUMS = 4  # of what is measured: of all rows, with a batch's, the batch's, the mean
_RANKED = 3  # of all that one expert changes: its layers, these together, and sorted
_CHANGED = 6  # of a layer's float64 arrays: what is merged of it, and how it came to be
_FLOAT64_BYTES = 8
_BASES = 3  # as it is loaded, as the model computes with it, and on the device


def of_leaves(
    method: MergeMethod,
    sources: Sequence[Source],
    start: Mapping[str, Leaf],
    statistics: Mapping[str, Leaf],
) -> int:
    """Returns the bytes that merging leaf by leaf takes at most.

    Args:
      method: One of those that `merged_leaves.can_merge` takes.
      sources: The experts.
      start: The base's leaves; empty for a method that needs none.
      statistics: What is measured with one expert, as of `measured_leaves`.
    """
    likes = merged_leaves.likes(method, sources)
    sides: Mapping[str, Side] = {}
    if not isinstance(method, task_arithmetic.TaskArithmetic):
        sides = merged_leaves.sides(method, sources)
    alone = [
        _of_leaf(method, name, like, sources, start.get(name), statistics.get(name))
        for name, like in likes.items()
        if name not in sides
    ]
    places = [
        _of_place(method, {n: sides[n] for n in names}, likes, sources, statistics)
        for is_linear in (False, True)
        for names in aligning.places(sides, is_linear=is_linear).values()
    ]
    return max((*alone, *places))


def _of_leaf(
    method: MergeMethod,
    name: str,
    like: Leaf,
    sources: Sequence[Source],
    start: Leaf | None,
    statistic: Leaf | None,
) -> int:
    """Returns the bytes that merging one leaf takes.

    A part of each expert is held as it is read, and once more if the next ones are
    read ahead; parts of the result are held up to five times.
    """
    leaves = [source.leaves[name] for source in sources]
    rows = merge_sizes.piece_rows(name, like, splits=method.unit == "value")
    step = merge_sizes.step_rows(method, leaves[0], rows, len(sources))
    if isinstance(method, averages.RunningMean):
        # Leaves that are cut within a part keep that part until they are asked for the
        # next one; of the others there are four that are read ahead, four more, and
        # the sum.
        is_kept = [bool(step % max(1, leaf.rows)) for leaf in leaves]
        every = [*itertools.compress(leaves, is_kept)]
        every += [
            x for x, keeps_part in zip(leaves, is_kept, strict=True) if not keeps_part
        ][:4]
    else:
        every = [*leaves, *([] if start is None else [start])]
        every += [] if statistic is None else [statistic] * len(leaves)
    held = sum(leaf_parts.held_rows(x, step) * leaf_parts.row_bytes(x) for x in every)
    ahead = held if held <= merge_sources.AHEAD_BYTES else 0
    copies = _COPIES * held if method.needs_statistics else 0
    if method.needs_base:
        copies += _of_changes(_by_layer(method), like, step, len(sources))
    num_parts = 4 + isinstance(method, by_name.ByName)  # which puts it among others
    return held + ahead + copies + num_parts * step * leaf_parts.row_bytes(like)


def _of_changes(method: MergeMethod, like: Leaf, step: int, num_experts: int) -> int:
    """Returns the bytes of what experts change in a step, and of what is made of it.

    Closed forms put matrices beside each other, twice: two squares of either side, and
    three as large as the matrix. LAPACK takes memory of its own to decompose one.
    """
    layer = step * math.prod(like.shape[1:])
    numbers = _CHANGED * layer
    if isinstance(method, deltas.DeltaMethod):
        numbers += method.num_copies * num_experts * layer
    if isinstance(method, closed_form.InterferenceMethod) and len(like.shape) > 1:
        rows, columns = like.shape[-2:]
        numbers += 2 * (2 * rows**2 + 2 * columns**2 + 3 * rows * columns)
    return numbers * _FLOAT64_BYTES + _of_vectors(method, like, num_experts)


def _of_vectors(method: MergeMethod, like: Leaf, num_experts: int) -> int:
    """Returns the bytes that finding singular vectors of a layer takes."""
    numbers = 0
    if len(like.shape) > 2:  # noqa: PLR2004 - matrices
        rows, columns = like.shape[-2:]
        if isinstance(method, spectral.MatrixMethod):
            numbers = _decomposed(rows, columns)
        elif isinstance(method, deltas.DeltaMethod) and method.holds_cores:
            numbers = _decomposed(num_experts * rows, columns)
    return numbers * _FLOAT64_BYTES


def _decomposed(rows: int, columns: int) -> int:
    """Returns how many numbers LAPACK holds to decompose a matrix: bounds.

    Of a long one its square is decomposed. Of others there are a copy, both vectors and
    what `gesdd` works in, which newer NumPy counts among what Python holds.
    """
    least = min(rows, columns)
    if max(rows, columns) >= singular.LONG * least:
        return 5 * least**2
    return 5 * least**2 + 2 * rows * columns


def _of_place(
    method: MergeMethod,
    sides: Mapping[str, Side],
    likes: Mapping[str, Leaf],
    sources: Sequence[Source],
    statistics: Mapping[str, Leaf],
) -> int:
    """Returns what the parameters of an adapter take, which are merged together.

    Of each expert a layer is held, and the part that it is of; of the result all
    layers, until they are written. Vectors of one side are found while another one is
    merged.
    """
    measured = [statistics[name] for name in sides if name in statistics]
    every = [source.leaves[name] for source in sources for name in sides]
    every += measured * len(sources)
    held = sum(leaf.rows * leaf_parts.row_bytes(leaf) for leaf in every)
    layer = sum(map(leaf_parts.row_bytes, every))
    ahead = held + layer if held <= merged_places.AHEAD_BYTES else 0
    out = [likes[name] for name in sides]
    if method.on_effects and all(side.is_linear for side in sides.values()):
        beside = _cores(method, sides, sources).held_bytes(_by_layer(method))
    else:
        by_layer = _by_layer(method)
        beside = max(_of_vectors(by_layer, like, len(sources)) for like in out)
    return held + ahead + _COPIES * layer + beside + num_bytes(out)


def _by_layer(method: MergeMethod) -> MergeMethod:
    """Returns the method that merges a layer, whatever weights that has."""
    return method.method if isinstance(method, by_name.ByName) else method


def of_whole(method: MergeMethod, sources: Sequence[Source]) -> int:
    """Returns the bytes that a merge of whole experts takes beside all parameters.

    They are those of cores in one layer; and if all that an expert changes is ranked,
    those of what all experts change in all layers, float64 or narrow matrices, and of
    a few copies of what one changes.

    Args:
      method: The merge method.
      sources: The experts.

    Raises:
      ConfigError: The method needs all cores at once, and they do not fit.
    """
    sides: Mapping[str, Side] = {}
    if method.on_effects and not isinstance(method, task_arithmetic.TaskArithmetic):
        sides = merged_leaves.sides(method, sources)
    places = [*aligning.places(sides, is_linear=True).values()]
    every = [_cores(method, {n: sides[n] for n in names}, sources) for names in places]
    most = max((cores.held_bytes(method) for cores in every), default=0)
    if not (isinstance(method, deltas.DeltaMethod) and method.ranks_experts):
        return most
    in_cores = {name for names in places for name in names}
    rest_leaves = [x for name, x in sources[0].leaves.items() if name not in in_cores]
    copies = _RANKED + len(method.weighted(len(sources)))
    numbers = copies * sum(math.prod(leaf.shape) for leaf in rest_leaves)
    numbers += sum(cores.ranked_numbers(method, _RANKED) for cores in every)
    return most + numbers * _FLOAT64_BYTES


def _cores(
    method: MergeMethod, sides: Mapping[str, Side], sources: Sequence[Source]
) -> merged_cores.Cores:
    count = len(method.weighted(len(sources)))
    return merged_cores.of([source.leaves for source in sources], sides, count)


def of_measuring(
    base: Mapping[str, Leaf],
    expert: Mapping[str, Leaf],
    statistics: Mapping[str, Leaf],
) -> int:
    """Returns the bytes in which one expert is measured; activations are not in them.

    Args:
      base: The base's leaves, which are loaded as float32.
      expert: The expert's.
      statistics: What is measured with it: from `measured_leaves`.
    """
    whole = 4 * trees.count_params(trees.unflatten(base)) + num_bytes(expert.values())
    return _BASES * whole + _SUMS * num_bytes(statistics.values())


def measured_leaves(
    method: MergeMethod, expert: Mapping[str, Leaf], num_positions: int
) -> dict[str, Leaf]:
    """Returns leaves like what is measured with an expert; they give no values.

    Args:
      method: Which needs it; of another there is nothing.
      expert: The expert's leaves.
      num_positions: Of `measuring.Measuring`: tokens that are kept, at most.
    """
    shapes = {}
    if method.measures == "fisher":
        shapes = {name: leaf.shape for name, leaf in expert.items()}
    elif method.measures == "grams":
        for name in filter(reads.can_be_seen, expert):
            *above, last = expert[name].shape
            is_matrix = name.rpartition("/")[2] in measured_sums.MATRIX_PARTS
            shapes[name] = (*above, above[-1] if is_matrix else last)
    elif method.measures == "hidden":
        sides = effects.beside(trees.unflatten(expert))
        for name, side in sides.items():
            if side.takes_factor and not side.is_linear:
                *above, inputs, _ = expert[name].shape
                shapes[name] = (*above, num_positions, inputs)
    return {name: _like(name, shape) for name, shape in shapes.items()}


def num_bytes(leaves: Iterable[Leaf]) -> int:
    """Returns the bytes of whole leaves."""
    return sum(leaf_parts.row_bytes(x) * (x.shape[0] if x.shape else 1) for x in leaves)


def _like(name: str, shape: tuple[int, ...]) -> Leaf:
    rows = 1 if f"/{LAYERS}/" in name else max(1, shape[0])
    return Leaf(shape, np.dtype(np.float32), rows, lambda: iter(()))
