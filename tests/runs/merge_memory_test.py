"""What a merge is said to hold is no less than what it holds, and is a hand's sum."""

import dataclasses
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.checkpoints import manifest
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import (
    averages,
    by_name,
    methods,
    task_arithmetic,
    threads,
    views,
)
from elm_jax.peft import effects
from elm_jax.runs import merge_memory, merge_sources, merged_leaves, merged_places

FLOAT = np.dtype(np.float32)
LORA = {"kind": "lora", "rank": 2}
PLACE = "decoder/layers/query_adapter"
LORA_SHAPES = {f"{PLACE}/lora_a": (6, 8, 2), f"{PLACE}/lora_b": (6, 2, 8)}
WIDE = {f"{PLACE}/lora_a": (1, 2048, 8), f"{PLACE}/lora_b": (1, 8, 2048)}
OF_CHANGES = [n for n in methods.METHODS if methods.of(n).needs_base]
ALL_CORES = (methods.of("knots"), methods.of("magmax", space="knots"))


def expert_of(shapes, number=0, rows=1, adapter=None, blocks=lambda: iter(())):
    info = manifest.Manifest(
        name=f"expert_{number}",
        kind="prompt",
        base_name="base",
        base_fingerprint="",
        model={},
        trainable_pattern=".*",
        adapter=adapter,
    )
    leaves = {name: Leaf(shape, FLOAT, rows, blocks) for name, shape in shapes.items()}
    return merge_sources.Source(leaves, info, f"{number}")


class Tracker:
    """Counts bytes of arrays that are in memory."""

    def __init__(self):
        self.now = self.most = 0
        self._lock = threading.RLock()

    def _change(self, by):
        with self._lock:
            self.now += by
            self.most = max(self.most, self.now)

    def blocks(self, shape, rows):
        for start in range(0, shape[0], rows):
            yield self._block((min(rows, shape[0] - start), *shape[1:]))

    def _block(self, shape):
        block = np.ones(shape, FLOAT)
        self._change(block.nbytes)
        weakref.finalize(block, self._change, -block.nbytes)
        return block


@pytest.mark.parametrize("rows", [1, 2, 3, 12])
def test_running_means_hold_no_more_parts_than_is_told(monkeypatch, rows):
    """Two rows of 400 bytes at once: parts that are cut stay for all 20 experts."""
    monkeypatch.setattr(merge_sources, "_RUNNING_BYTES", 800)
    tracker, shape = Tracker(), (12, 100)
    name, method = "decoder/layers/kernel", averages.RunningMean()
    monkeypatch.setattr("elm_jax.runs.merge_sizes.PIECE_BYTES", 800)
    every = [
        expert_of(
            {name: shape}, number, rows, None, lambda: tracker.blocks(shape, rows)
        )
        for number in range(20)
    ]
    estimate = merge_memory.of_leaves(method, every, {}, {})
    (leaf,) = merged_leaves.merged(method, every, {}).values()
    assert sum(len(block) for block in leaf.blocks()) == 12
    is_kept = rows in (3, 12)
    of_each = {3: 2 + 2 * 3, 12: 12}  # a part may be joined of two that stay
    held = 20 * 400 * of_each[rows] if is_kept else 4 * 800
    assert estimate == 2 * held + 4 * 800
    assert tracker.most <= estimate
    assert (tracker.most >= 20 * 400 * rows) == is_kept


@pytest.mark.parametrize(("ahead_bytes", "times"), [(3 << 20, 1), (8 << 20, 2)])
def test_parts_that_are_joined_are_read_ahead_as_far_as_is_told(
    monkeypatch, ahead_bytes, times
):
    """20 experts, two rows of 100 kB at once, of which each is stored alone.

    The rows as they are stored would fit into 3 MiB, the joined ones do not. Python
    itself takes less than a tenth beside them.
    """
    monkeypatch.setattr(merge_sources, "AHEAD_BYTES", ahead_bytes)
    monkeypatch.setattr("elm_jax.runs.merge_sizes.PIECE_BYTES", 200_000)
    monkeypatch.setattr("elm_jax.checkpoints.stores.CHUNK_BYTES", 200_000)
    name, shape = "token_embedder/embedding", (12, 25_000)
    method = methods.of("uniform")

    def rows():
        for _ in range(12):
            yield np.ones((1, 25_000), FLOAT)

    every = [expert_of({name: shape}, number, 1, None, rows) for number in range(20)]
    estimate = merge_memory.of_leaves(method, every, {}, {})
    assert estimate == times * 20 * 200_000 + 4 * 200_000
    (leaf,) = merged_leaves.merged(method, every, {}).values()
    tracemalloc.start()
    assert sum(len(block) for block in leaf.blocks()) == 12
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert times * 20 * 200_000 < peak < 1.1 * estimate


def test_a_merge_of_loras_counts_cores_and_all_layers_of_the_result():
    """Three of rank 2, six layers of 16 + 16 numbers each.

    Of each expert a layer is a part: 3 x 32 x 4 bytes, twice, and twice more ahead,
    and three copies. Cores are 6 x 6, of narrow matrices 6 x 2 and 2 x 6: three copies
    of these, eight matrices like one core, and four times some rows of all cores, here
    all of them; and a bit for each number. The result has a rank of 6, in six layers.
    """
    cores = (3 * 3 * 2 * (6 + 6) + 8 * 36 + 4 * 3 * 36) * 8 + 3 * 36 // 8
    every = [expert_of(LORA_SHAPES, n, 1, LORA) for n in range(3)]
    layer, whole = 3 * 32 * 4, 6 * 32 * 4
    estimate = merge_memory.of_leaves(methods.of("ties"), every, {}, {})
    assert estimate == 2 * layer + layer + 3 * layer + cores + 3 * whole
    regmean = methods.of("regmean")
    measured = merge_memory.measured_leaves(regmean, every[0].leaves, 0)
    assert {n: x.shape for n, x in measured.items()} == {f"{PLACE}/lora_a": (6, 8, 8)}
    layer += 3 * 64 * 4  # Gram matrices
    estimate = merge_memory.of_leaves(regmean, every, {}, measured)
    assert estimate == 2 * layer + layer + 3 * layer + cores + 3 * whole


def test_hundreds_of_loras_take_little_more_than_one():
    """296 of rank 8 as wide as XL: products of all of them would take 9.9 GB.

    Of each expert a layer is 64 KB of A and of B each, and the merge is a rank of 2,368
    in one layer. The bound is that of the issue: experts and three more, and 1 GiB.
    """
    every = [expert_of(WIDE, n, 1, LORA | {"rank": 8}) for n in range(296)]
    for name in ("low_rank_sum", "ties", "covariance", "iso_cts"):
        estimate = merge_memory.of_leaves(methods.of(name), every, {}, {})
        assert estimate < 299 * 2 * 65536 + 2**30


@pytest.mark.parametrize("method", ALL_CORES, ids=lambda each: each.name)
def test_a_plan_refuses_more_cores_than_a_merge_would_hold(method):
    """Of 296 LoRAs as wide as XL: 296 x 2048 x 2048 x 8 bytes. Of 32, cores of 256.

    Experts without a weight have no core.
    """
    message = "296 LoRAs of rank 8, whose products take 9,932,111,872 bytes"
    every = [expert_of(WIDE, n, 1, LORA | {"rank": 8}) for n in range(296)]
    for read in (
        lambda method, experts: merge_memory.of_leaves(method, experts, {}, {}),
        merge_memory.of_whole,
    ):
        with pytest.raises(errors.ConfigError, match=message):
            read(method, every)
        few = dataclasses.replace(method, weights=(1.0,) * 32 + (0.0,) * 264)
        assert read(few, every) > 4 * 32 * 2048 * 256 * 8


def test_whole_loras_count_cores_of_one_layer_and_what_is_ranked_of_all():
    """Three of rank 2 in six layers of 8 x 8, with cores of 6 x 6, and 5 numbers apart.

    Of what is ranked there are, as float64, in each layer the narrow matrices of three
    experts, 6 x 2 and 2 x 6, and three cores; and what three change apart, and thrice
    what one does. The space of KnOTS has parts of 8 x 6 of each instead.
    """
    every = [
        expert_of(LORA_SHAPES | {"norm/scale": (5,)}, n, 1, LORA) for n in (0, 1, 2)
    ]
    cores = (3 * 3 * 2 * (6 + 6) + 8 * 36 + 4 * 3 * 36) * 8 + 3 * 36 // 8
    of_whole = merge_memory.of_whole
    assert of_whole(methods.of("emr", expert=1), every) == cores
    assert of_whole(task_arithmetic.TaskArithmetic(), every) == 0
    assert of_whole(methods.of("emr", expert=1, space="parameters"), every) == 0
    ranked = 6 * (3 * 2 * (6 + 6) + 3 * 36) + (3 + 3) * 5
    assert of_whole(methods.of("ties", per="expert"), every) == cores + 8 * ranked
    in_parts = methods.of("ties", per="expert", space="parameters")
    assert of_whole(in_parts, every) == 8 * (3 + 3) * (6 * 2 * 8 * 2 + 5)
    ranked = 6 * (3 + 3) * 8 * 6 + (3 + 3) * 5
    parts = (3 * 3 * 2 * (8 + 6) + 8 * 48 + 4 * 3 * 48) * 8 + 3 * 48 // 8
    assert of_whole(methods.of("knots", per="expert"), every) == parts + 8 * ranked


def test_loras_of_several_ranks_have_cores_as_wide_as_all_of_them():
    """Of ranks 3, 2 and 2: 7 x 7, of matrices that are padded to a rank of 3."""
    wide = {f"{PLACE}/lora_a": (6, 8, 3), f"{PLACE}/lora_b": (6, 3, 8)}
    every = [expert_of(wide, 0, 1, LORA | {"rank": 3})]
    every += [expert_of(LORA_SHAPES, n, 1, LORA) for n in (1, 2)]
    cores = (3 * 3 * 3 * (7 + 7) + 8 * 49 + 4 * 3 * 49) * 8 + 3 * 49 // 8
    assert merge_memory.of_whole(methods.of("ties"), every) == cores


@pytest.mark.parametrize("space", ["core", "knots"])
@pytest.mark.parametrize("name", ["ties", "magnitude", "emr"])
def test_merging_whole_loras_holds_no_more_than_is_told(name, space):
    """40 of rank 2 and 90 wide, in eight layers, whose cores would take 16 MB in all.

    Where cores are ranked, what is held is less than a third of that.
    """
    shapes = {f"{PLACE}/lora_a": (8, 90, 2), f"{PLACE}/lora_b": (8, 2, 90)}
    every = [expert_of(shapes, n, 1, LORA) for n in range(40)]
    rng = np.random.default_rng(5)
    params = [
        trees.unflatten(
            {n: rng.normal(size=s).astype(FLOAT) for n, s in shapes.items()}
        )
        for _ in every
    ]
    options = {"expert": 3} if name == "emr" else {"per": "expert"}
    method, beside = methods.of(name, space=space, **options), effects.beside(params[0])
    estimate = merge_memory.of_whole(method, every)
    tracemalloc.start()
    method.merge(params, base={}, beside=beside, marks=[f"{n:02}" for n in range(40)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    written = merge_memory.num_bytes(merged_leaves.likes(method, every).values())
    assert peak < estimate + written
    assert space == "knots" or peak < 8 * 40 * 80 * 80 * 8 / 3


@pytest.mark.parametrize("many", [1, 1 << 40])
@pytest.mark.parametrize("num_experts", [24, 60])
def test_merging_bottlenecks_in_the_space_of_knots_holds_no_more_than_is_told(
    monkeypatch, num_experts, many
):
    """Of 24, what is 256 wide is three times as long, so that its square is great.

    Of many numbers, it is decomposed while the other side is merged. LAPACK takes three
    squares that Python does not count.
    """
    monkeypatch.setattr(views, "_MANY", many)
    monkeypatch.setattr(threads, "_MANY", 1)
    monkeypatch.setattr(merged_places, "AHEAD_BYTES", 0)
    shapes = {"down/bias": (2, 32), "down/kernel": (2, 256, 32)}
    shapes |= {"up/bias": (2, 256), "up/kernel": (2, 32, 256)}
    adapter = {"kind": "bottleneck", "reduction_factor": 8}

    def expert(seed):
        def leaf(shape):
            rng = np.random.default_rng(seed)
            layer = (rng.standard_normal((1, *shape[1:]), FLOAT) for _ in range(2))
            return Leaf(shape, FLOAT, 1, lambda: layer)

        leaves = {f"decoder/layers/mlp_adapter/{n}": leaf(s) for n, s in shapes.items()}
        return expert_of({}, seed, 1, adapter)._replace(leaves=leaves)

    every, method = [expert(seed) for seed in range(num_experts)], methods.of("knots")
    estimate = merge_memory.of_leaves(method, every, {}, {})
    merged = merged_leaves.merged(method, every, {})
    tracemalloc.start()
    assert [sum(map(len, leaf.blocks())) for leaf in merged.values()] == [2] * 4
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak + 3 * 256**2 * 8 < estimate


def test_a_sum_of_loras_is_as_many_times_as_wide():
    every = [expert_of(LORA_SHAPES, n, 1, LORA) for n in range(3)]
    summed = task_arithmetic.TaskArithmetic(weights=(1.0, 0.0, 2.0))
    likes = merged_leaves.likes(summed, every)
    assert [leaf.shape for leaf in likes.values()] == [(6, 8, 4), (6, 4, 8)]
    assert merge_memory.num_bytes(likes.values()) == 2 * 6 * 32 * 4
    likes = merged_leaves.likes(averages.Uniform(), every)
    assert merge_memory.num_bytes(likes.values()) == 6 * 32 * 4


def test_measuring_holds_the_base_the_expert_and_what_is_summed_up():
    base, expert, measured = (
        expert_of({"a/kernel": shape}).leaves for shape in ((5, 7), (5, 3), (5, 5))
    )
    estimate = merge_memory.of_measuring(base, expert, measured)
    assert estimate == 3 * (35 + 15) * 4 + 4 * 25 * 4


@pytest.mark.parametrize("name", OF_CHANGES)
@pytest.mark.parametrize("shape", [(1, 480, 192), (1, 192, 480)])
@pytest.mark.parametrize("num_experts", [2, 4, 12])
def test_merging_matrices_of_whole_models_holds_no_more_than_is_told(
    monkeypatch, num_experts, shape, name
):
    check_is_told(monkeypatch, methods.of(name), shape, num_experts)


@pytest.mark.parametrize("name", OF_CHANGES)
def test_nor_does_merging_them_with_weights_by_name(monkeypatch, name):
    if not methods.of(name).needs_statistics:
        method = by_name.ByName(method=methods.of(name))
        check_is_told(monkeypatch, method, (1, 480, 192), 4)


def check_is_told(monkeypatch, method, shape, num_experts):
    leaf_name = "decoder/layers/mlp/wo/kernel"
    monkeypatch.setattr(merge_sources, "AHEAD_BYTES", 0)

    def expert(seed):
        def blocks():
            yield np.random.default_rng(seed).standard_normal(shape, FLOAT)

        return expert_of({leaf_name: shape}, seed, blocks=blocks)

    every = [expert(seed) for seed in range(num_experts)]
    assert merged_leaves.can_merge(method, every[0].info)
    start = expert(num_experts).leaves
    estimate = merge_memory.of_leaves(method, every, start, {})
    (leaf,) = merged_leaves.merged(method, every, start).values()
    tracemalloc.start()
    assert sum(len(block) for block in leaf.blocks()) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < estimate + 100_000  # of the interpreter
