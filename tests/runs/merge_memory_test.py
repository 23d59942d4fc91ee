"""What a merge is said to hold is no less than what it holds, and is a hand's sum."""

import threading
import weakref

import numpy as np
import pytest

from elm_jax.checkpoints import manifest
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import averages, methods, task_arithmetic
from elm_jax.runs import merge_memory, merge_sources, merged_leaves

FLOAT = np.dtype(np.float32)
LORA = {"kind": "lora", "rank": 2}
PLACE = "decoder/layers/query_adapter"
LORA_SHAPES = {f"{PLACE}/lora_a": (6, 8, 2), f"{PLACE}/lora_b": (6, 2, 8)}


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
    """Two rows of 400 bytes at once: other parts than these stay for all 20 experts."""
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
    told = merge_memory.of_leaves(method, every, {}, {})
    (leaf,) = merged_leaves.merged(method, every, {}).values()
    assert sum(len(block) for block in leaf.blocks()) == 12
    is_kept = rows != 2
    held = 20 * 400 * max(rows, 2) if is_kept else 4 * 800
    assert told == 2 * held + 4 * 800
    assert tracker.most <= told
    assert (tracker.most >= 20 * 400 * rows) == is_kept


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
    told = merge_memory.of_leaves(methods.of("ties"), every, {}, {})
    assert told == 2 * layer + layer + 3 * layer + cores + 3 * whole
    regmean = methods.of("regmean")
    measured = merge_memory.measured_leaves(regmean, every[0].leaves, 0)
    assert {n: x.shape for n, x in measured.items()} == {f"{PLACE}/lora_a": (6, 8, 8)}
    layer += 3 * 64 * 4  # Gram matrices
    told = merge_memory.of_leaves(regmean, every, {}, measured)
    assert told == 2 * layer + layer + 3 * layer + cores + 3 * whole


def test_hundreds_of_loras_take_little_more_than_one():
    """296 of rank 8 as wide as XL: products of all of them would take 9.9 GB.

    Of each expert a layer is 64 KB of A and of B each, and the merge is a rank of 2,368
    in one layer. The bound is that of the issue: experts and three more, and 1 GiB.
    """
    shapes = {f"{PLACE}/lora_a": (1, 2048, 8), f"{PLACE}/lora_b": (1, 8, 2048)}
    every = [expert_of(shapes, n, 1, LORA | {"rank": 8}) for n in range(296)]
    for name in ("low_rank_sum", "ties", "covariance", "iso_cts"):
        told = merge_memory.of_leaves(methods.of(name), every, {}, {})
        assert told < 299 * 2 * 65536 + 2**30
    assert merge_memory.of_leaves(methods.of("knots"), every, {}, {}) > 4 * 9.9e9


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
    told = merge_memory.of_measuring(base, expert, measured)
    assert told == 3 * (35 + 15) * 4 + 4 * 25 * 4
