"""Parameters that modules declare."""

import jax
import jax.numpy as jnp
import pytest
from flax import errors as flax_errors
from flax import linen as nn

from elm_jax import parameters


class Scaled(nn.Module):
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x):
        return x * parameters.declare(self, "scale", self.scale_init, x.shape[-1:])


def test_a_parameter_that_is_not_there_is_made_by_its_initialiser():
    params = Scaled().init(jax.random.key(0), jnp.zeros(3))["params"]
    assert params["scale"].dtype == jnp.float32
    assert params["scale"].tolist() == [1, 1, 1]


def test_a_parameter_that_is_there_is_taken_and_its_initialiser_not_traced():
    def init(*_):
        raise AssertionError("traced")

    params = {"scale": jnp.full(3, 2.0)}
    assert Scaled(init).apply({"params": params}, jnp.ones(3)).tolist() == [2, 2, 2]


def test_a_parameter_of_another_shape_is_refused_and_named():
    message = r'"scale".*shape \(3,\).*shape \(1,\)'
    with pytest.raises(flax_errors.ScopeParamShapeError, match=message):
        Scaled().apply({"params": {"scale": jnp.ones(1)}}, jnp.ones(3))


def test_a_missing_parameter_is_not_made_by_a_computation():
    with pytest.raises(flax_errors.ScopeParamNotFoundError):
        Scaled().apply({"params": {"other": jnp.ones(3)}}, jnp.ones(3))
