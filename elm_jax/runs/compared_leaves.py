"""Experts on disk that are compared a layer at a time, as they are merged."""

import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import streaming
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import aligning, combining, comparing, products, task_arithmetic
from elm_jax.peft import effects
from elm_jax.runs import (
    merge_memory,
    merge_sizes,
    merge_sources,
    merged_cores,
    merged_leaves,
    merged_places,
)
from elm_jax.runs.progress import Progress
from elm_jax.types import LAYERS, Side


def compare(
    folders: Sequence[pathlib.Path], base_dir: pathlib.Path, *, random_seed: int = 0
) -> comparing.Comparison:
    """Returns how experts of one base and kind differ; reads them twice.

    In memory are a layer of an adapter, or of another parameter, of all experts, and
    what is made of it; of a parameter without layers, such as an embedding, all.

    Args:
      folders: Of two or more experts; of LoRAs in one rank and scale.
      base_dir: Of their base.
      random_seed: Of the order in which experts are drawn.

    Raises:
      ElmError: One is missing or torn, or they do not fit each other.
    """
    method = task_arithmetic.TaskArithmetic()
    sources = merge_sources.open_sources(method, folders)
    combining.check_alike([trees.unflatten(source.leaves) for source in sources])
    beside = merged_leaves.sides(method, sources)
    base = merge_sources.open_base(base_dir)
    start = merged_leaves.start_of(sources[0], base, beside)
    experts = [source.leaves for source in sources]
    names = [source.info.name for source in sources]
    num_layers = sum(
        experts[0][group[0]].shape[0] if merge_sizes.is_stack(group[0]) else 1
        for group in _groups(experts[0], beside)
    )
    progress = Progress("compare, twice", total=2 * num_layers, unit="layers")
    done = itertools.count(1)

    def parts() -> Iterator[comparing.Part]:
        for part in _parts(experts, start, beside):
            for name, params in zip(names, part.experts, strict=True):
                combining.check_given(name, params)
            yield part
            del part  # before the next one is read
            progress(next(done))

    return comparing.compare_parts(parts, len(experts), random_seed=random_seed)


def read_bytes(folders: Sequence[pathlib.Path], base_dir: pathlib.Path) -> int:
    """Returns the bytes of parameters that `compare` reads, both times.

    Raises:
      CheckpointError: An expert or the base is missing or torn.
    """
    experts = [streaming.open_expert(folder)[0] for folder in folders]
    base, _ = streaming.open_expert(base_dir)
    start = [base[name] for name in experts[0] if name in base]
    every = [start, *(leaves.values() for leaves in experts)]
    return 2 * sum(map(merge_memory.num_bytes, every))


def check_memory(folders: Sequence[pathlib.Path]) -> None:
    """Raises ConfigError if cores of LoRAs take more memory than they may.

    Args:
      folders: Of two or more experts of one kind.

    Raises:
      CheckpointError: One is missing or torn.
    """
    experts = [streaming.open_expert(folder)[0] for folder in folders]
    sides = effects.beside(trees.unflatten(experts[0]))
    for names in aligning.places(sides, is_linear=True).values():
        place = {name: sides[name] for name in names}
        cores = merged_cores.of(experts, place, len(experts))
        products.check_all_fit(
            cores.shape,
            cores.rank,
            do="Compare fewer, or first cut each to a lower rank",
        )


def _parts(
    experts: Sequence[Mapping[str, Leaf]],
    start: Mapping[str, Leaf],
    beside: Mapping[str, Side],
) -> Iterator[comparing.Part]:
    """Yields the parts that are compared: an adapter or a parameter, in one layer."""
    for names in _groups(experts[0], beside):
        yield from _layers(experts, {} if names[0] in beside else start, names)


def _groups(expert: Mapping[str, Leaf], beside: Mapping[str, Side]) -> list[list[str]]:
    """Returns the names of parameters that are compared together."""
    groups = [
        [*names]
        for is_linear in (False, True)
        for names in aligning.places(beside, is_linear=is_linear).values()
    ]
    return [*groups, *([name] for name in expert if name not in beside)]


def _layers(
    experts: Sequence[Mapping[str, Leaf]],
    start: Mapping[str, Leaf],
    names: Sequence[str],
) -> Iterator[comparing.Part]:
    """Yields parameters in one layer after another, or as a whole if they have none."""
    groups = [[leaves[name] for leaves in experts] for name in names]
    groups += [[start[name]] for name in names if name in start]
    is_stack = merge_sizes.is_stack(names[0])
    arrays_of = merged_places.layers_of(groups) if is_stack else [_whole(groups)]
    for number, arrays in enumerate(arrays_of):
        layer_names = [
            name.replace(f"/{LAYERS}/", f"/{LAYERS}_{number}/") for name in names
        ]
        values, base = arrays[: len(names)], arrays[len(names) :]
        trees_of = [
            trees.unflatten(dict(zip(layer_names, several, strict=True)))
            for several in zip(*values, strict=True)
        ]
        pairs = zip(layer_names, base, strict=False)  # adapters have no base
        origin = trees.unflatten({name: array[0] for name, array in pairs})
        yield comparing.Part(trees_of, origin, effects.beside(trees_of[0]))
        del arrays, values, base, trees_of, origin  # before the next ones are read


def _whole(groups: Sequence[Sequence[Leaf]]) -> list[list[np.ndarray]]:
    return [[_array(leaf) for leaf in leaves] for leaves in groups]


def _array(leaf: Leaf) -> np.ndarray:
    blocks = [*leaf.blocks()]
    return np.concatenate(blocks) if leaf.shape else blocks[0]
