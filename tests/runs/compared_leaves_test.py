"""Experts that are compared a layer at a time are told what whole ones are told."""

import tracemalloc

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints.tensors import Leaf
from elm_jax.merging import comparing
from elm_jax.runs import compare, compared_leaves, loaded
from tests.runs import scored, toy_experts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    with scored.registered():
        toy_experts.save(path)
    return path


@pytest.mark.parametrize("kind", toy_experts.SPECS)
def test_comparing_a_layer_at_a_time_is_comparing_whole_experts(folder, kind):
    """To 1e-12: the same sums in another order of layers."""
    folders = [folder / kind / f"{kind}_{number}" for number in (1, 2, 3)]
    base = loaded.Base.load(folder / "base")
    whole = compare.of_experts(
        [loaded.Expert.load(each) for each in folders], base, random_seed=3
    )
    streamed = compared_leaves.compare(folders, folder / "base", random_seed=3)
    assert [layer.name for layer in streamed.layers] == [
        layer.name for layer in whole.layers
    ]
    for one, other in zip(streamed.layers, whole.layers, strict=True):
        for what in ("norms", "products", "conflict", "overlap", "pull"):
            np.testing.assert_array_equal(getattr(one, what), getattr(other, what))
    for what in ("in_place", "cosine", "norms", "forecast"):
        made, expected = (getattr(each, what) for each in (streamed, whole))
        np.testing.assert_allclose(made, expected, rtol=1e-12, atol=1e-12)
    for made, expected in (
        (streamed.alike, whole.alike),
        (streamed.drawn, whole.drawn),
    ):
        assert made.order == expected.order
        np.testing.assert_allclose(made.pulls, expected.pulls, rtol=1e-12, atol=1e-12)


def leaves_of(number, num_layers, width):
    """An expert whose layers are made when they are read."""

    def blocks():
        rng = np.random.default_rng(number)
        for _ in range(num_layers):
            yield rng.standard_normal((1, width, width), np.float32)

    shape = (num_layers, width, width)
    return {"encoder/layers/mlp/wi/kernel": Leaf(shape, np.dtype("f4"), 1, blocks)}


def test_a_comparison_holds_a_few_layers_however_many_there_are():
    """Of 120 layers of four experts, 3.9 MB in float32, less than a third of all."""
    experts = [leaves_of(number, 120, 45) for number in range(4)]
    start = leaves_of(9, 120, 45)
    tracemalloc.start()
    made = comparing.compare_parts(
        lambda: compared_leaves._parts(experts, start, {}), 4
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made.layers) == 120
    assert peak < 4 * 120 * 45 * 45 * 4 / 3


def test_experts_of_other_shapes_are_refused_before_they_are_read(folder):
    folders = [folder / "lora" / "lora_1", folder / "bottleneck" / "bottleneck_1"]
    with pytest.raises(errors.ConfigError, match="differs from expert 0"):
        compared_leaves.compare(folders, folder / "base")
