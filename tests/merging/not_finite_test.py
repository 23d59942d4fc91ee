"""No method makes anything of parameters that are not finite, or hides them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from elm_jax import errors, trees
from elm_jax.merging import by_name, combining, methods
from elm_jax.merging.method import MergeMethod
from tests.merging import kinds

COUNTS = {"slerp": 2}


def spoilt(tree, name, value):
    """The same tree with one number of a parameter replaced."""
    leaves = {n: np.array(leaf) for n, leaf in trees.flatten(tree).items()}
    leaves[name].reshape(-1)[-1] = value
    return trees.unflatten(leaves)


@pytest.mark.parametrize("kind", kinds.SHAPES)
@pytest.mark.parametrize("name", methods.METHODS)
def test_an_expert_that_is_not_finite_is_refused_with_its_parameter(name, kind):
    sample, merging = kinds.sample(kind, COUNTS.get(name, 3)), methods.of(name)
    arguments = sample.arguments(merging)
    for value in (np.nan, np.inf, -np.inf):
        for parameter in trees.flatten(sample.experts[1]):
            experts = [*sample.experts]
            experts[1] = spoilt(experts[1], parameter, value)
            count = len(experts)
            who = "" if merging.shows_not_finite else f" of expert 2 of {count}"
            with pytest.raises(
                errors.ConfigError, match=f"parameter {parameter}{who} is not finite"
            ):
                merging.merge(experts, **arguments)


@pytest.mark.parametrize("kind", kinds.SHAPES)
@pytest.mark.parametrize(
    "name", [n for n, m in methods.METHODS.items() if m.needs_base]
)
def test_a_base_that_is_not_finite_is_refused_with_its_parameter(name, kind):
    sample, merging = kinds.sample(kind, COUNTS.get(name, 3)), methods.of(name)
    for value in (np.nan, np.inf):
        for parameter in trees.flatten(sample.start):
            start = spoilt(sample.start, parameter, value)
            arguments = dataclasses.replace(sample, start=start).arguments(merging)
            who = "" if merging.shows_not_finite else " of the base"
            with pytest.raises(
                errors.ConfigError, match=f"parameter {parameter}{who} is not finite"
            ):
                merging.merge(sample.experts, **arguments)


def test_an_expert_of_weight_zero_is_not_looked_at_and_numbers_are_those_given():
    sample = kinds.sample("norms")
    ends = [spoilt(e, "encoder/norm/scale", np.nan) for e in sample.experts[1:]]
    experts, base = [sample.experts[0], *ends], sample.start
    merged = methods.of("ties", weights=(1.0, 0.0, 0.0)).merge(experts, base=base)
    alone = methods.of("ties", weights=(1.0,)).merge(experts[:1], base=base)
    assert not trees.diff(merged.params, alone.params)
    with pytest.raises(errors.ConfigError, match="of expert 3 of 3 is not finite"):
        methods.of("ties", weights=(1.0, 0.0, 1.0)).merge(experts, base=base)


def test_weights_by_name_number_experts_as_they_are_given():
    sample = kinds.sample("norms")
    merging = by_name.ByName(method=methods.of("ties"))
    experts = [
        *sample.experts[:2],
        spoilt(sample.experts[2], "encoder/norm/scale", np.inf),
    ]
    with pytest.raises(
        errors.ConfigError, match="norm/scale of expert 3 of 3 is not finite"
    ):
        merging.merge(experts, base=sample.start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greatest(MergeMethod):
    """A method from elsewhere, which says nothing of numbers that are not finite."""

    name = "greatest"
    reference = "this file"

    def _merge(self, experts, base, beside):
        raise AssertionError("it is not asked")


def test_what_a_method_from_elsewhere_is_given_is_checked():
    with pytest.raises(errors.ConfigError, match="parameter w of expert 2 of 2 is"):
        Greatest().merge([{"w": np.ones(2)}, {"w": np.array([1.0, np.nan])}])


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_every_number_of_two_bytes_is_told_finite_or_not(dtype):
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    are_finite = [combining.is_finite(number) for number in every[:, None]]
    np.testing.assert_array_equal(are_finite, np.isfinite(every.astype(np.float32)))
    finite = every[are_finite]
    assert combining.is_finite(finite)
    for place in (0, len(finite) // 2, len(finite) - 1):
        spoilt_part = finite.copy()
        spoilt_part[place] = np.nan
        assert not combining.is_finite(spoilt_part)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_great_numbers_whose_sum_is_not_finite_are_finite_themselves(dtype):
    great = np.full(3, np.finfo(dtype).max)
    assert combining.is_finite(great)
    assert not combining.is_finite(np.array([np.inf, -np.inf], dtype))
    assert combining.is_finite(np.empty((0, 2), dtype))
