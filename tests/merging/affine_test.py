"""A sum as a function of its weights is task arithmetic, layer by layer if asked."""

import numpy as np
import pytest

from elm_jax import trees
from elm_jax.merging import affine, averages, by_name, task_arithmetic
from tests.merging import kinds

WEIGHTS = (0.5, -1.25, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in kinds.SHAPES if k not in kinds.RANKS])
def test_it_gives_what_task_arithmetic_gives(kind):
    sample = kinds.sample(kind)
    method = task_arithmetic.TaskArithmetic(weights=WEIGHTS)
    marks = "abc"  # the order in which adapters are put beside each other
    expected = method.merge(
        sample.experts, base=sample.start, beside=sample.beside, marks=marks
    ).params
    merged = affine.make_merged_fn(sample.experts, sample.start, sample.beside)
    leaves = trees.flatten(merged({affine.ALL: np.array(WEIGHTS, np.float32)}))
    for name, leaf in trees.flatten(expected).items():
        np.testing.assert_allclose(leaves[name], leaf, rtol=1e-5, atol=1e-6)
    assert [*leaves] == [*trees.flatten(expected)]


@pytest.mark.parametrize("kind", ["all", "bottleneck", "lora", "ia3"])
def test_layers_have_weights_of_their_own(kind):
    sample = kinds.sample(kind)
    groups = affine.layer_groups(sample.experts[0])
    assert groups == ["encoder/layers_0/", "encoder/layers_1/"]
    of_group = {groups[1]: (1.0, -0.25, 0.5), affine.ALL: WEIGHTS}
    method = by_name.ByName(
        method=task_arithmetic.TaskArithmetic(weights=WEIGHTS),
        weights_of={groups[1]: of_group[groups[1]]},
    )
    marks = ("a", "b", "c")
    expected = method.merge(
        sample.experts, base=sample.start, beside=sample.beside, marks=marks
    ).params
    merged = affine.make_merged_fn(sample.experts, sample.start, sample.beside)
    tree = merged({n: np.array(w, np.float32) for n, w in of_group.items()})
    for name, leaf in trees.flatten(expected).items():
        found_leaf = trees.flatten(tree)[name]
        np.testing.assert_allclose(found_leaf, leaf, rtol=1e-5, atol=1e-6)
    mean = averages.Uniform().merge(sample.experts).params
    assert [*trees.flatten(tree)] == [*trees.flatten(mean)]
