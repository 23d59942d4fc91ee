"""What `MergeMethod.merge` sees to for all methods."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.merging import averages, method, task_arithmetic
from elm_jax.types import Side

BESIDE = {"a/down": Side(-1, False), "a/up": Side(-2, True)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen(method.MergeMethod):
    """Tells which experts it was given, and their weights."""

    name: ClassVar[str] = "seen"
    reference: ClassVar[str] = "this file"
    weights: tuple[float, ...] = ()

    def _merge(self, experts, base, beside):
        facts = {str(e["w"]): w for e, w in zip(experts, self.weights, strict=True)}
        return method.Merged({}, facts=facts)


def tree(value):
    return {"w": np.float32(value)}


def test_experts_are_given_by_their_marks_and_those_of_weight_zero_not_at_all():
    experts = [tree(n) for n in range(4)]
    merging = Seen(weights=(0.1, 0.2, 0.0, 0.3))
    seen = merging.merge(experts, marks=["c", "d", "a", "b"])
    assert [*seen.facts.items()] == [("3.0", 0.3), ("0.0", 0.1), ("1.0", 0.2)]
    again = Seen(weights=(0.3, 0.1, 0.2)).merge([experts[n] for n in (3, 0, 1)])
    reordered = Seen(weights=(0.2, 0.3, 0.1)).merge([experts[n] for n in (1, 3, 0)])
    assert [*again.facts] == [*reordered.facts]  # by their content


def test_without_any_weight_one_expert_is_left():
    seen = Seen(weights=(0.0, 0.0)).merge([tree(1), tree(2)])
    assert [*seen.facts.items()] == [("1.0", 0.0)]


def test_layers_that_are_summed_apart_by_marks_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    experts = [
        {"a": {"down": rng.normal(size=(2, 3, 2)), "up": rng.normal(size=(2, 2, 3))}}
        for _ in range(3)
    ]
    summing = task_arithmetic.TaskArithmetic(weights=(1.0, -2.0, 0.5))
    marks = ["b", "c", "a"]
    whole = summing.merge(experts, base={}, beside=BESIDE, marks=marks).params
    for layer in range(2):
        for name, side in BESIDE.items():
            parts = [{name: trees.flatten(e)[name][layer]} for e in experts]
            part = summing.merge(parts, base={}, beside={name: side}, marks=marks)
            leaf = trees.flatten(part.params)[name]
            expected_leaf = trees.flatten(whole)[name][layer]
            np.testing.assert_array_equal(leaf, expected_leaf)


def test_statistics_are_refused_by_a_method_that_needs_none():
    with pytest.raises(errors.ConfigError, match="it needs none"):
        averages.Uniform().merge([tree(1)], statistics=[{}])
